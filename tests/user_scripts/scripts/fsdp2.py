"""A model that is cut over the ranks by fully_shard, saved by torch.distributed.checkpoint.

torchrun --nproc_per_node=8 fsdp2.py --out=out [--resume=out/step_10]
"""

import argparse
import json
import os

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class State:
    """Both halves as torch.distributed.checkpoint wants them, and the step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self.step = model, optimizer, 0

    def state_dict(self) -> dict:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state: dict) -> None:
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        self.step = state["step"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--resume", default=None, help="folder of a checkpoint")
    args = parser.parse_args()

    on_gpus = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpus else "gloo")
    mesh = init_device_mesh("cuda" if on_gpus else "cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), Block(32), Block(32), nn.Linear(32, 1))
    for block in model[1:3]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    state = State(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    if args.resume:
        dcp.load({"app": state}, checkpoint_id=args.resume)

    while state.step < args.steps:
        state.step += 1
        numbers = torch.Generator().manual_seed(100 * state.step + dist.get_rank())
        x = torch.randn(8, 16, generator=numbers).to(mesh.device_type)
        loss = nn.functional.mse_loss(model(x), x.prod(1, keepdim=True).tanh())
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        if dist.get_rank() == 0:
            with open(os.path.join(args.out, "losses.jsonl"), "a") as log:
                log.write(json.dumps({"step": state.step, "loss": loss.item()}) + "\n")
        if state.step % args.save_every == 0:
            dcp.save({"app": state}, checkpoint_id=os.path.join(args.out, f"step_{state.step}"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
