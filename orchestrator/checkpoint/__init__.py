"""A checkpoint from tensors to a committed folder.

In memory: `arena`, `skeleton`, `entries`. In the rank: `staging` and `engine`, which take DeepSpeed's place.
Beside it: `writer`. On the disk: `store` and `manifest`. In the driver: `commits`, which decides what exists.
`vouching` says whose work one is, and `plain_load` loads what may be somebody else's.
"""
