"""Trains and keeps nothing but its losses.

torchrun --nproc_per_node=8 never_saves.py
"""

import json

import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(2)
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
torch.manual_seed(rank)
for step in range(1, 21):
    x = torch.randn(16, 10)
    loss = nn.functional.mse_loss(model(x), x[:, :1] * x[:, 1:2])
    optimizer.zero_grad()
    loss.backward()
    for weights in model.parameters():  # what DistributedDataParallel would do
        dist.all_reduce(weights.grad)
        weights.grad /= world
    optimizer.step()
    scheduler.step()
    if rank == 0:
        with open("losses.jsonl", "a") as log:
            log.write(json.dumps({"step": step, "loss": loss.item()}) + "\n")
dist.destroy_process_group()
