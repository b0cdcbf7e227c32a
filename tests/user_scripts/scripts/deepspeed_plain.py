"""A loop of one's own around a DeepSpeed engine, with its settings in a file beside it.

deepspeed --num_gpus=8 deepspeed_plain.py --deepspeed --deepspeed_config ds.json --out=out
"""

import argparse
import json
import os

import deepspeed
import torch
import torch.distributed as dist
from torch import nn


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=-1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save_interval", type=int, default=5)
    parser.add_argument("--out", required=True)
    return deepspeed.add_config_arguments(parser).parse_args()


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A function to learn; which numbers a step has follows from the step."""
    numbers = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(16, 32, generator=numbers)
    return x, x.sin().sum(1, keepdim=True)


def main() -> None:
    args = parse_arguments()
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(args=args, model=model, optimizer=optimizer)

    path, state = engine.load_checkpoint(args.out)
    first = state["step"] if path else 0
    for step in range(first + 1, args.steps + 1):
        torch.manual_seed(step)  # of dropout
        x, y = batch(step, dist.get_rank())
        loss = nn.functional.mse_loss(engine(x.to(engine.device)), y.to(engine.device))
        engine.backward(loss)
        engine.step()
        if dist.get_rank() == 0:
            with open(os.path.join(args.out, "losses.jsonl"), "a") as log:
                log.write(json.dumps({"step": step, "loss": loss.item()}) + "\n")
        if step % args.save_interval == 0:
            engine.save_checkpoint(args.out, tag=f"step{step}", client_state={"step": step})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
