"""A small DeepSpeed job: fits a sine, saves as it goes, resumes, and saves and leaves when told to stop.

torchrun --nproc_per_node=2 train.py --deepspeed_config=deepspeed.json --checkpoint_dir=checkpoints
python -m orchestrator --config-dir conf job=sine
"""

import argparse
import json
import os
import signal

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deepspeed_config", required=True)
    parser.add_argument("--checkpoint_dir", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--save_every", type=int, default=20, help="steps")
    return parser.parse_args()


def join() -> None:
    """Meet the other ranks: whoever started them has put RANK, WORLD_SIZE and the rest into the
    environment."""
    if get_accelerator().device_name() == "cpu":
        # DeepSpeed would spend the first minutes on compiling a collective for CPUs; gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


def make_engine(args: argparse.Namespace) -> deepspeed.DeepSpeedEngine:
    """Batch sizes, ZeRO stage and precision come from the DeepSpeed file, the learning rate from the
    arguments."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=args.deepspeed_config)
    return engine


def loss_of(engine: deepspeed.DeepSpeedEngine, samples: torch.Tensor) -> torch.Tensor:
    dtype = next(engine.module.parameters()).dtype
    inputs, targets = samples.to(engine.device, dtype), torch.sin(samples).to(engine.device, dtype)
    return torch.nn.functional.mse_loss(engine(inputs), targets)


def train_step(engine: deepspeed.DeepSpeedEngine, step: int) -> None:
    """One optimizer step. The batch follows from the step alone, so a resumed run sees what it would have
    seen."""
    generator = torch.Generator().manual_seed(step)
    batch = torch.empty(engine.train_batch_size(), 1).uniform_(-3, 3, generator=generator)
    mine = batch.chunk(dist.get_world_size())[dist.get_rank()]
    for samples in mine.chunk(engine.gradient_accumulation_steps()):
        engine.backward(loss_of(engine, samples))
        engine.step()


class Stop:
    """SIGTERM reaches the ranks at different moments; they have to save after the same step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.asked = device, False
        signal.signal(signal.SIGTERM, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True

    def agreed(self) -> bool:
        # A tensor of its own: a signal during the reduction must not change what one rank alone reads of it.
        vote = torch.tensor([float(self.asked)], device=self.device)
        dist.all_reduce(vote, dist.ReduceOp.MAX)
        return bool(vote.item())


def main() -> None:
    args = parse_arguments()
    join()
    engine = make_engine(args)
    path, state = engine.load_checkpoint(args.checkpoint_dir)
    step = saved = state["step"] if path else 0
    stop = Stop(engine.device)
    while step < args.steps and not stop.agreed():
        train_step(engine, step)
        step += 1
        if step % args.save_every == 0 or step == args.steps:
            saved = save(engine, args.checkpoint_dir, step)
    if saved != step:
        save(engine, args.checkpoint_dir, step)
    dist.destroy_process_group()


def save(engine: deepspeed.DeepSpeedEngine, directory: str, step: int) -> int:
    """Save, and print a line of JSON: its numbers become metrics of the run."""
    engine.save_checkpoint(directory, tag=f"step-{step}", client_state={"step": step})
    with torch.no_grad():
        error = loss_of(engine, torch.linspace(-3, 3, 61).unsqueeze(1)).item()
    if dist.get_rank() == 0:
        print(json.dumps({"step": step, "val_loss": error}), flush=True)
    return step


if __name__ == "__main__":
    main()
