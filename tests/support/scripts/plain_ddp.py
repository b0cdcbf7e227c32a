"""Training as torch's own tutorials do it, with nothing of DeepSpeed: DDP over gloo, two micro-batches a step, a
progress bar, a file saved in the middle. `--nan` makes the loss of rank 1 none at that step. Each rank says what it
was given: words of every kind, and the environment."""

import argparse
import json
import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

parser = argparse.ArgumentParser()
parser.add_argument("total", type=int, nargs="?", default=12)
parser.add_argument("every", type=int, nargs="?", default=6)
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--layers", nargs="+", type=int)
parser.add_argument("--local_rank", type=int)
parser.add_argument("--out")
parser.add_argument("--nan", type=int, default=0)
args = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
saw = {"args": vars(args), "argv": sys.argv[1:], "elastic": dist.is_torchelastic_launched()}
for name in ("RANK", "ROLE_RANK", "GROUP_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
    saw[name] = os.environ[name]
print("SAW", json.dumps(saw), flush=True)
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
torch.manual_seed(rank)
losses = []
for step in tqdm(range(1, args.total + 1), desc="training", mininterval=0, disable=rank > 0):
    mean = torch.zeros(())
    for _ in range(2):
        x = torch.randn(4, 8)
        loss = (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
        if step == args.nan and rank == 1:
            loss = loss * float("nan")
        (loss / 2).backward()
        mean += loss.detach() / 2
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(mean, op=dist.ReduceOp.SUM)
    losses.append(mean.item() / 2)
    if step == args.every and rank == 0:
        torch.save(model.state_dict(), f"{args.out}/model.pt")
        print(json.dumps({"step": step, "val_loss": float("nan")}), flush=True)
if rank == 0:
    with open(f"{args.out}/losses.json", "w") as file:
        json.dump(losses, file)
dist.destroy_process_group()
