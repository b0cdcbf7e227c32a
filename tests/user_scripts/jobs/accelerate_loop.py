"""A training loop of one's own with accelerate and DeepSpeed, as in its examples on checkpoints and on
DeepSpeed.

torchrun --nproc_per_node=2 accelerate_loop.py --deepspeed_config_file=zero1.json --output_dir=out
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONTEXT = 32


class NextByte(nn.Module):
    """Guesses the byte that follows from those before it."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.recurrent(self.embedding(tokens))
        return self.head(hidden)


def make_loader(batch_size: int) -> DataLoader:
    text = torch.tensor(list(inspect.getsource(difflib).encode()))
    windows = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    return DataLoader(TensorDataset(windows), batch_size=batch_size, shuffle=True, drop_last=True)


def newest_checkpoint(output_dir: str) -> tuple[str, int] | None:
    folders = (
        [name for name in os.listdir(output_dir) if name.startswith("step_")]
        if os.path.isdir(output_dir)
        else []
    )
    steps = sorted(int(name.removeprefix("step_")) for name in folders)
    return (os.path.join(output_dir, f"step_{steps[-1]}"), steps[-1]) if steps else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deepspeed_config_file", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--max_train_steps", type=int, default=20)
    parser.add_argument("--checkpointing_steps", type=int, default=5)
    parser.add_argument("--per_device_train_batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=args.deepspeed_config_file),
        # Without a GPU accelerate names no backend to DeepSpeed, and takes every rank for the only one.
        kwargs_handlers=[] if torch.cuda.is_available() else [InitProcessGroupKwargs(backend="gloo")],
    )
    set_seed(args.seed)
    model = NextByte()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    loader = make_loader(args.per_device_train_batch_size)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    accumulation = accelerator.gradient_accumulation_steps
    steps_per_epoch = len(loader) // accumulation
    done = 0
    newest = newest_checkpoint(args.output_dir)
    if newest is not None:
        folder, done = newest
        accelerator.print(f"Resumed from checkpoint: {folder}")
        accelerator.load_state(folder)

    while done < args.max_train_steps:
        epoch, into = divmod(done, steps_per_epoch)
        loader.set_epoch(epoch)
        model.train()
        losses = []
        for (batch,) in accelerator.skip_first_batches(loader, into * accumulation) if into else loader:
            with accelerator.accumulate(model):
                logits = model(batch[:, :-1])
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach()).mean().item())
            if not accelerator.sync_gradients:
                continue
            done += 1
            if accelerator.is_main_process:
                with open(f"{args.output_dir}/log.jsonl", "a") as log:
                    log.write(json.dumps({"step": done, "train_loss": sum(losses) / len(losses)}) + "\n")
            losses = []
            if done % args.checkpointing_steps == 0:
                accelerator.save_state(os.path.join(args.output_dir, f"step_{done}"))
            if done == args.max_train_steps:
                break

    accelerator.wait_for_everyone()
    unwrapped = accelerator.unwrap_model(model)
    accelerator.save(unwrapped.state_dict(), os.path.join(args.output_dir, "model.pt"))
    accelerator.print("trained", done, "steps")
    accelerator.end_training()


if __name__ == "__main__":
    main()
