"""A loop of one's own with accelerate, told to go on as in its own examples.

accelerate launch --config_file accelerate.yaml accelerate_loop.py --output_dir=out
"""

import argparse
import json
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max_train_steps", type=int, default=20)
    parser.add_argument("--checkpointing_steps", type=int, default=5)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--cpu", action="store_true", help="train without GPUs")
    parser.add_argument("--resume_from_checkpoint", default=None, help="the folder step_N of a checkpoint")
    return parser.parse_args()


def make_loader() -> DataLoader:
    numbers = torch.Generator().manual_seed(3)
    x = torch.randn(256, 16, generator=numbers)
    return DataLoader(TensorDataset(x, x.cos().mean(1, keepdim=True)), batch_size=8, shuffle=True)


def main() -> None:
    args = parse_arguments()
    accelerator = Accelerator(
        cpu=args.cpu,
        gradient_accumulation_steps=2,
        # An epoch's order follows from its number, so that it is the same after a resume.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    set_seed(42)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, make_loader(), scheduler)
    done, per_epoch = 0, len(loader) // accelerator.gradient_accumulation_steps
    if args.resume_from_checkpoint:
        accelerator.load_state(args.resume_from_checkpoint)
        done = int(os.path.basename(args.resume_from_checkpoint).removeprefix("step_"))

    model.train()
    while done < args.max_train_steps:
        epoch, into = divmod(done, per_epoch)
        loader.set_epoch(epoch)
        micro_batches = into * accelerator.gradient_accumulation_steps
        for x, y in accelerator.skip_first_batches(loader, micro_batches) if micro_batches else loader:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            done += 1
            if accelerator.is_main_process:
                with open(os.path.join(args.output_dir, "losses.jsonl"), "a") as log:
                    log.write(json.dumps({"step": done, "loss": loss.item()}) + "\n")
            if done % args.checkpointing_steps == 0:
                accelerator.save_state(os.path.join(args.output_dir, f"step_{done}"))
            if done == args.max_train_steps:
                break
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
