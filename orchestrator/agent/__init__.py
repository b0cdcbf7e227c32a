"""All that runs on one node of a run. It knows no Ray, so a test can hold an agent in its hand.

`agent` owns the node: `ranks` are heard, watched and stopped, `snapshots` keep their checkpoints in memory,
`log_reader` and `log_transfer` bring what they print to the driver. `assignment` is what it was told.
"""
