"""A plain DeepSpeed script. Prints the loss and learning rate of each global step as it sees them."""

import argparse

import deepspeed
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--stage", type=int, default=2)
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--micro-batches", type=int, default=1)
parser.add_argument("--save", default="")
parser.add_argument("--load", default="")
parser.add_argument("--pipeline", action="store_true")
args = parser.parse_args()

torch.manual_seed(0)
deepspeed.init_distributed("gloo")
layers = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)]
config = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": args.micro_batches,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.5, "torch_adam": True}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.001, "warmup_num_steps": 4}},
    "zero_optimization": {"stage": args.stage},
    "bf16": {"enabled": True},
    "steps_per_print": 1_000_000,
}


def square(out: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (out - label).float().pow(2).mean()


def batches():
    while True:
        yield torch.randn(4, 16, dtype=torch.bfloat16), torch.zeros(4, 1, dtype=torch.bfloat16)


model = (
    deepspeed.pipe.PipelineModule(layers, num_stages=2, loss_fn=square)
    if args.pipeline
    else nn.Sequential(*layers)
)
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
if args.load:
    engine.load_checkpoint(args.load)
source = batches()
for _ in range(args.steps):
    lr = engine.get_lr()[0]
    if args.pipeline:
        losses = [engine.train_batch(source).item()]
    else:
        losses = []
        for _ in range(args.micro_batches):
            inputs, labels = next(source)
            loss = square(engine(inputs), labels)
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
    print("step", engine.global_steps, sum(losses) / len(losses), lr, flush=True)
if args.save:
    engine.save_checkpoint(args.save)
torch.distributed.destroy_process_group()
