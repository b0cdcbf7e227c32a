"""Many jobs on scarce GPUs: who runs where, decided in dollars. Pure; clock and journal are elsewhere.

`jobs`, `pools`, `teams` and `world` are what is known at one moment, `decide` the one function that says what
follows from it and why. Run forward it is the `forecast`, run on a trace of jobs the simulator (`simulate`).
"""
