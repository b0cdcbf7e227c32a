"""A DeepSpeed script whose batches depend on the step alone: a run that was interrupted repeats the
losses."""

import argparse
import json
import os
import time

import deepspeed
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--stage", type=int, default=1)
parser.add_argument("--pipeline", action="store_true")
parser.add_argument("--width", type=int, default=16)
parser.add_argument("--until", type=int, default=6)
parser.add_argument("--dir", default="checkpoints")
parser.add_argument("--save-every", type=int, default=0)
parser.add_argument("--stop-in-save-of", type=int, default=0)
parser.add_argument("--load", nargs="*", help="folders; each may have a tag, after a colon")
parser.add_argument("--config", type=json.loads, default={})
args = parser.parse_args()


class Slow:
    """Takes its time when it is pickled, on its way into the checkpoint."""

    def __reduce__(self):
        print("in the middle", flush=True)
        time.sleep(100)
        return Slow, ()


torch.manual_seed(0)
deepspeed.init_distributed("gloo")
layers = [nn.Linear(16, args.width), nn.ReLU(), nn.Linear(args.width, 1)]
config = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 1,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.01, "warmup_num_steps": 4}},
    "zero_optimization": {"stage": args.stage},
    "bf16": {"enabled": True},
    "steps_per_print": 1_000_000,
    **args.config,
}


def square(out, label):
    return (out - label).float().pow(2).mean()


def batch(step, rank):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(4, 16, generator=generator).bfloat16(), torch.ones(4, 1, dtype=torch.bfloat16)


model = (
    deepspeed.pipe.PipelineModule(layers, num_stages=2, loss_fn=square)
    if args.pipeline
    else nn.Sequential(*layers)
)
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
print("engine", type(engine.checkpoint_engine).__name__, flush=True)
for asked in args.load or []:
    folder, _, tag = asked.partition(":")
    try:
        path, client = engine.load_checkpoint(folder, tag or None)
    except Exception as error:
        if len(args.load) == 1:
            raise
        print("refused", folder, type(error).__name__, error, flush=True)
    else:
        print("loaded", folder, path, client and client.get("note"), flush=True)
while engine.global_steps < args.until:
    step = engine.global_steps + 1
    if args.pipeline:
        loss = engine.train_batch(iter([batch(step, 0)])).item()
    else:
        inputs, labels = batch(step, engine.global_rank)
        loss = square(engine(inputs), labels)
        engine.backward(loss)
        engine.step()
        loss = loss.item()
    print("step", engine.global_steps, loss, flush=True)
    if args.save_every and step % args.save_every == 0:
        state = {"note": f"saved at {step}"} | ({"slow": Slow()} if step == args.stop_in_save_of else {})
        engine.save_checkpoint(os.path.abspath(args.dir), client_state=state)
torch.distributed.destroy_process_group()
