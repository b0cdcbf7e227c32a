"""Prints, one JSON line per round, the processor seconds that a step of the no-op engine takes.

`thread_s` is the training thread's own time, `process_s` that of all threads, so also of the one that
delivers messages. Between steps it sleeps, as a training thread does that waits for its operators: the
other threads get their turn, and caches are no warmer than they would be.
"""

from __future__ import annotations

import json
import time

import deepspeed
import torch

ROUNDS, STEPS, PAUSE_S = 11, 300, 0.002

torch.set_num_threads(1)
engine, *_ = deepspeed.initialize()
loss = torch.tensor(1.0)
for _ in range(ROUNDS):
    thread_s, process_s = time.thread_time(), time.process_time()
    for _ in range(STEPS):
        engine.backward(engine.forward(loss))
        engine.step()
        time.sleep(PAUSE_S)
    told = {"thread_s": time.thread_time() - thread_s, "process_s": time.process_time() - process_s}
    print(json.dumps({name: seconds / STEPS for name, seconds in told.items()}), flush=True)
