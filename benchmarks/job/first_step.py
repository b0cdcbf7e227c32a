"""A plain DeepSpeed job that notes how far it has come, until its first step is done.

It knows nothing of who started it, and its data are made up on the spot. Each rank writes one JSON line
of Unix times into DIR/rank-N.PID.json and prints it. With --steps it trains on, to be killed.
"""

import time

BEGAN_UNIX_S = time.time()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import deepspeed  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from deepspeed.accelerator import get_accelerator  # noqa: E402

IMPORTED_UNIX_S = time.time()
HIDDEN, LAYERS, MICRO_BATCH = 256, 4, 4


def process_began_unix_s() -> float:
    """From the kernel, to a tick of 10 ms; counted from boot, as psutil's knows the boot to the second
    only."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


def make_engine(cuda: bool):
    torch.manual_seed(0)
    blocks = [layer for _ in range(LAYERS) for layer in (torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.GELU())]
    model = torch.nn.Sequential(*blocks, torch.nn.Linear(HIDDEN, 1))
    config = {
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": cuda},
    }
    return deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)[
        0
    ]


def train_step(engine, cuda: bool) -> None:
    batch = torch.randn(
        MICRO_BATCH, HIDDEN, device=engine.device, dtype=torch.bfloat16 if cuda else torch.float32
    )
    loss = engine(batch).square().mean()
    engine.backward(loss)
    engine.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1)
    args, _ = parser.parse_known_args()  # the deepspeed launcher adds --local_rank
    stamps = {"process": process_began_unix_s(), "script": BEGAN_UNIX_S, "imported": IMPORTED_UNIX_S}
    cuda = get_accelerator().device_name() == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.ones(1, device="cuda").add_(1)
        torch.cuda.synchronize()
        stamps["cuda_context"] = time.time()
    else:
        # Built on first use, for a minute and more; off for all who run this script.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    stamps["process_group"] = time.time()
    dist.all_reduce(torch.ones(1, device=get_accelerator().current_device_name()))
    get_accelerator().synchronize()
    stamps["first_collective"] = time.time()
    engine = make_engine(cuda)
    stamps["initialized"] = time.time()
    train_step(engine, cuda)
    get_accelerator().synchronize()
    stamps["first_step"] = time.time()

    rank = dist.get_rank()
    told = {"rank": rank, "pid": os.getpid(), "threads": torch.get_num_threads(), "stamps": stamps}
    told |= {"world_size": dist.get_world_size(), "device": get_accelerator().device_name()}
    line = json.dumps(told)
    print(line, flush=True)
    unfinished = args.stamps / f".{rank}.{os.getpid()}"
    unfinished.write_text(line)
    unfinished.rename(args.stamps / f"rank-{rank}.{os.getpid()}.json")
    for _ in range(args.steps - 1):
        train_step(engine, cuda)
    engine.destroy()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
