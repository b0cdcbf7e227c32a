"""Training with FSDP and torch's distributed checkpoints, as torch's own tutorials do it: FSDP2
(``fully_shard``) or, with ``--fsdp=1``, the wrapper of FSDP1. It goes on by ``--resume`` only.

``--die_at`` kills rank 1 after that step, once. ``--unloadable`` leaves a file out of the folder of that step,
once, which no index knows of and without which nothing is loaded."""

import argparse
import os
import signal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

parser = argparse.ArgumentParser()
parser.add_argument("--out")
parser.add_argument("--fsdp", type=int, default=2)
parser.add_argument("--resume")
parser.add_argument("--die_at", type=int, default=0)
parser.add_argument("--unloadable", type=int, default=0)
args = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
if args.fsdp == 2:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
else:
    model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
options = StateDictOptions(flatten_optimizer_state_dict=True)
first = 1
if args.resume:
    states, optimizer_states = get_state_dict(model, optimizer, options=options)
    state = {"model": states, "optimizer": optimizer_states, "step": 0}
    dcp.load(state, checkpoint_id=args.resume)
    with open(f"{args.resume}/done.txt") as file:
        assert int(file.read()) == state["step"]
    set_state_dict(
        model, optimizer, model_state_dict=states, optim_state_dict=optimizer_states, options=options
    )
    first = state["step"] + 1
for step in range(first, 13):
    torch.manual_seed(step * 2 + rank)
    x = torch.randn(4, 8)
    loss = (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 3 == 0:
        states, optimizer_states = get_state_dict(model, optimizer, options=options)
        folder = f"{args.out}/step_{step}"
        dcp.save({"model": states, "optimizer": optimizer_states, "step": step}, checkpoint_id=folder)
        if rank == 0 and (step != args.unloadable or os.path.exists(f"{args.out}/died")):
            with open(f"{folder}/done.txt", "w") as file:
                file.write(str(step))
    if step == args.die_at and rank == 1 and not os.path.exists(f"{args.out}/died"):
        open(f"{args.out}/died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
dist.destroy_process_group()
