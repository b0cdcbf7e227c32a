"""The package's own command.

torchrun --nproc_per_node=8 -m pkg.train --save out [--load out/iter_0000010.pt]
"""

import argparse
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from . import checkpoints
from .model import TinyGPT


def batch(model: TinyGPT, step: int, rank: int) -> torch.Tensor:
    """Words of which each letter is the one before it and the one before that."""
    numbers = torch.Generator().manual_seed(50 * step + rank)
    tokens = torch.randint(0, model.letters, (8, model.context + 1), generator=numbers)
    for place in range(2, model.context + 1):
        tokens[:, place] = (tokens[:, place - 1] + tokens[:, place - 2]) % model.letters
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(prog="pkg.train")
    parser.add_argument("--train-iters", type=int, default=20)
    parser.add_argument("--save-interval", type=int, default=5)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--load")
    args = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.manual_seed(1)
    model = TinyGPT()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    step = 0
    if args.load:
        state = checkpoints.load(args.load)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < args.train_iters:
        step += 1
        tokens = batch(model, step, dist.get_rank())
        logits = wrapped(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if dist.get_rank() == 0:
            with (args.save / "losses.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, "loss": loss.item()}) + "\n")
            if step % args.save_interval == 0:
                checkpoints.save(args.save, step, model=model.state_dict(), optimizer=optimizer.state_dict())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
