"""Sums the ranks' numbers over gloo."""

import os

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
value = torch.tensor([float(os.environ["RANK"]) + 1])
dist.all_reduce(value)
print("sum", value.item(), flush=True)
dist.barrier()
dist.destroy_process_group()
