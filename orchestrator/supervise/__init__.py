"""One loop: poll, say what happened, decide, act. Pure; clock and workers are handed in.

`policy` decides what follows a fault, from `history` alone; `worker_group` is what the loop asks of workers,
wherever they are.
"""
