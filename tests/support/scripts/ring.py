"""Adds up the same tensor over all ranks, again and again, and says how long the fastest time took: through gloo's
ring, which joins ranks in their order."""

import argparse
import os
import socket
import sys
import time

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--megabytes", type=float, default=2.0)
parser.add_argument("--times", type=int, default=3)
parser.add_argument("--until")
args = parser.parse_args()
dist.init_process_group("gloo")
rank = dist.get_rank()
tensor = torch.ones(int(args.megabytes * 1e6 / 4))
dist.all_reduce(torch.ones(1))
fastest_s = float("inf")
for _ in range(args.times):
    dist.barrier()
    began_s = time.monotonic()
    dist.all_reduce(tensor)
    fastest_s = min(fastest_s, time.monotonic() - began_s)
print(f"rank {rank} host {socket.gethostname()} all_reduce {fastest_s:.3f}", flush=True)
if rank == 0:
    print('{"there": 1}', flush=True)
while args.until and not os.path.exists(args.until):
    time.sleep(0.1)
dist.destroy_process_group()
sys.exit(0)
