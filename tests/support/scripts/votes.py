"""Two ranks take 24 empty steps and save when they agree to. Flags: what rank 1's clock does, and the step
before which SIGTERM reaches rank 1 (0 is never). Prints {"saved": [...], "stopped": step}."""

import json
import os
import signal
import sys

import intervals
import ranks
import torch.distributed as dist

EVERY = 5  # steps, of which rank 0's clock takes one for a second


def main() -> int:
    rank_1_clock, told_before = sys.argv[1], int(sys.argv[2])
    control = ranks.join_process_group()
    first, step = dist.get_rank() == 0, 0
    clocks = {"ahead": lambda: step * 1000.0, "stopped": lambda: 0.0, "right": lambda: float(step)}
    clock = clocks["right" if first else rank_1_clock]
    timer = intervals.SaveTimer(intervals.Every(seconds=EVERY), 1.0, 0, clock)
    vote, saved, stop = ranks.Vote(control), [], False
    while step < 24 and not stop:
        if step + 1 == told_before and not first:
            os.kill(os.getpid(), signal.SIGTERM)
        vote.start(save=timer.due(step))
        step += 1
        stop, save = vote.read()
        if save:
            dist.barrier(group=control)  # as in a save: a rank that is alone in it waits for ever
            timer.saved(step, 0.0)
            saved.append(step)
    print(json.dumps({"saved": saved, "stopped": step}))
    dist.destroy_process_group()
    return 0
