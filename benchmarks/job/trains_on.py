"""A plain DeepSpeed job that saves, loads what it finds and trains on, and notes when it did what.

It knows nothing of who started it. Each rank appends JSON lines to DIR/rank-N.PID.jsonl: `what` (script,
imported, process_group, initialized, loaded, step, saved), `at` (Unix seconds), and for loaded, step and
saved the `step` and the `seconds` it took.
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
MICRO_BATCH = 4


class Notes:
    """What this rank has done. A line is in the file when `add` returns, so that a killed rank's notes
    stay."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"rank-{os.environ['RANK']}.{os.getpid()}.jsonl"

    def add(self, what: str, at: float | None = None, **more: float) -> None:
        line = json.dumps({"what": what, "at": time.time() if at is None else at, **more})
        with self.path.open("a") as file:
            file.write(line + "\n")


def make_engine(hidden: int, layers: int, stage: int, cuda: bool):
    torch.manual_seed(0)
    blocks = [layer for _ in range(layers) for layer in (torch.nn.Linear(hidden, hidden), torch.nn.GELU())]
    model = torch.nn.Sequential(*blocks, torch.nn.Linear(hidden, 1))
    config = {
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": cuda},
    }
    return deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)[
        0
    ]


def train_step(engine, hidden: int, cuda: bool) -> None:
    batch = torch.randn(
        MICRO_BATCH, hidden, device=engine.device, dtype=torch.bfloat16 if cuda else torch.float32
    )
    loss = engine(batch).square().mean()
    engine.backward(loss)
    engine.step()
    get_accelerator().synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, required=True, help="steps from one checkpoint to the next")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--stage", type=int, default=1)
    args, _ = parser.parse_known_args()
    notes = Notes(args.stamps)
    notes.add("script", BEGAN_UNIX_S)
    notes.add("imported", IMPORTED_UNIX_S)
    cuda = get_accelerator().device_name() == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # Built on first use, for a minute and more; off for all who run this script.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    notes.add("process_group")
    engine = make_engine(args.hidden, args.layers, args.stage, cuda)
    notes.add("initialized")
    begin = time.perf_counter()
    path, _ = engine.load_checkpoint(str(args.checkpoints))
    if path is not None:
        notes.add("loaded", step=engine.global_steps, seconds=time.perf_counter() - begin)
    while engine.global_steps < args.steps:
        begin = time.perf_counter()
        train_step(engine, args.hidden, cuda)
        notes.add("step", step=engine.global_steps, seconds=time.perf_counter() - begin)
        if engine.global_steps % args.every == 0:
            begin = time.perf_counter()
            engine.save_checkpoint(str(args.checkpoints), tag=f"step-{engine.global_steps}")
            notes.add("saved", step=engine.global_steps, seconds=time.perf_counter() - begin)
    engine.destroy()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
