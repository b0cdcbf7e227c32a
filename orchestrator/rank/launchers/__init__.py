"""The flags of torchrun, deepspeed and accelerate, read by their own parsers.

They import torch, so this runs in a child of the run's own process (:mod:`~.read`), which is asked by
:mod:`orchestrator.config.command_line.child`.
"""
