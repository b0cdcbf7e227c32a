"""In nanoGPT's manner: settings are globals, which a file and words like --compile=False replace.

torchrun --standalone --nproc_per_node=8 nano.py config/tiny.py --compile=False
"""

import json
import os

import torch
from torch import nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

# -----------------------------------------------------------------------------
out_dir = "out"
init_from = "scratch"  # 'scratch' or 'resume'
backend = "nccl"
device = "cuda"
compile = True
max_iters = 600
save_interval = 100
batch_size = 64
n_embd = 384
learning_rate = 1e-3
decay_lr = True
# -----------------------------------------------------------------------------
config_keys = [k for k, v in globals().items() if not k.startswith("_") and isinstance(v, int | float | str)]
exec(open("configurator.py").read())  # noqa: SIM115 - overrides from command line or config file
config = {k: globals()[k] for k in config_keys}
# -----------------------------------------------------------------------------

init_process_group(backend=backend)
ddp_rank = int(os.environ["RANK"])
master_process = ddp_rank == 0
os.makedirs(out_dir, exist_ok=True)
torch.manual_seed(1337)


def get_batch(iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(iteration * 8 + ddp_rank)
    x = torch.randn(batch_size, n_embd, generator=numbers)
    return x, x.roll(1, 1) * 0.5


def get_lr(iteration: int) -> float:
    return learning_rate * (1 - iteration / (2 * max_iters)) if decay_lr else learning_rate


iter_num = 0
model = nn.Sequential(nn.Linear(n_embd, n_embd), nn.GELU(), nn.Linear(n_embd, n_embd))
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
if init_from == "resume":
    print(f"Resuming training from {out_dir}")
    checkpoint = torch.load(os.path.join(out_dir, "ckpt.pt"), map_location="cpu")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    iter_num = checkpoint["iter_num"]
    checkpoint = None  # free up memory
if compile:
    print("compiling the model... (takes a ~minute)")
    model = torch.compile(model)
raw_model = model
model = DistributedDataParallel(model)

while iter_num < max_iters:
    for param_group in optimizer.param_groups:
        param_group["lr"] = get_lr(iter_num)
    x, y = get_batch(iter_num)
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    iter_num += 1
    if master_process:
        with open(os.path.join(out_dir, "losses.jsonl"), "a") as log:
            log.write(json.dumps({"step": iter_num, "loss": loss.item()}) + "\n")
        if iter_num % save_interval == 0:
            checkpoint = {
                "model": raw_model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iter_num": iter_num,
                "config": config,
            }
            print(f"saving checkpoint to {out_dir}")
            torch.save(checkpoint, os.path.join(out_dir, "ckpt.pt"))

barrier()
destroy_process_group()
