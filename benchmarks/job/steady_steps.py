"""A DeepSpeed engine that takes so many equal steps, each until the device has done it; prints their median
time, in seconds, as one line of JSON."""

import json
import os
import sys
import time
from statistics import median

import deepspeed
import torch
import torch.distributed as dist

device, warm_up_steps, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cuda = device == "cuda"
hidden, micro_batch = (2048, 1024) if cuda else (256, 16)
dtype = torch.bfloat16 if cuda else torch.float32
if cuda:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
else:
    # Built on first use, for a minute and more.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
torch.manual_seed(0)
model = torch.nn.Sequential(*(torch.nn.Linear(hidden, hidden) for _ in range(8)))
config = {
    "train_micro_batch_size_per_gpu": micro_batch,
    "zero_optimization": {"stage": 1},
    "bf16": {"enabled": cuda},
}
optimizer = torch.optim.AdamW(model.parameters())
engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
batch = torch.randn(micro_batch, hidden, device=engine.device, dtype=dtype)
times_s = []
for _ in range(warm_up_steps + steps):
    begun_s = time.perf_counter()
    engine.backward(engine(batch).square().mean())
    engine.step()
    if cuda:
        torch.cuda.synchronize()
    times_s.append(time.perf_counter() - begun_s)
print(json.dumps({"step_s": median(times_s[warm_up_steps:])}), flush=True)
engine.destroy()
dist.destroy_process_group()
