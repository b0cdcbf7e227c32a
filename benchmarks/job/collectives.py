"""Joins a process group, reduces over it and leaves it; prints what each took, in seconds, as one line of
JSON."""

import itertools
import json
import os
import sys
import time

import torch
import torch.distributed as dist

device, megabytes = sys.argv[1], int(sys.argv[2])
if device == "cuda":
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.ones(1, device=device).add_(1)
    torch.cuda.synchronize()
marks = [time.perf_counter()]
dist.init_process_group("nccl" if device == "cuda" else "gloo")
marks.append(time.perf_counter())
small, large = torch.ones(1, device=device), torch.ones(megabytes << 18, device=device)
for tensor in (small, small, large, large):
    dist.all_reduce(tensor)
    if device == "cuda":
        torch.cuda.synchronize()
    marks.append(time.perf_counter())
assert float(large[0]) == float(dist.get_world_size()) ** 2
dist.destroy_process_group()
marks.append(time.perf_counter())
version = ".".join(map(str, torch.cuda.nccl.version())) if device == "cuda" else "none"
seconds = [after - before for before, after in itertools.pairwise(marks)]
print(json.dumps({"seconds": seconds, "nccl": version}))
