"""A DeepSpeed job of any size that trains a step, saves, and so on, and notes how long each save held it up.

It knows nothing of who started it. Each rank appends JSON lines to DIR/rank-N.PID.jsonl, with the `step` and
the `seconds` since all ranks began to save: saved (`save_checkpoint` has returned; `wrote` are the bytes that
this process handed to the kernel for it), then on rank 0 synced (fsync of all that was added, where DeepSpeed
wrote it) or committed (where an engine of its own puts it on the disk behind the training). The next step
begins after that.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

LOOK_S = 0.02


def note(folder: Path, what: str, **more: float) -> None:
    with (folder / f"rank-{os.environ['RANK']}.{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")


def make_engine(parameters: int):
    """About so many parameters, in bf16, with AdamW's state in fp32: 14 bytes each in a checkpoint."""
    hidden = 1024 if parameters < 50_000_000 else 2048
    torch.manual_seed(0)
    layers = [
        torch.nn.Linear(hidden, hidden, bias=False) for _ in range(max(1, round(parameters / hidden**2)))
    ]
    if get_accelerator().device_name() == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 1},
        "bf16": {"enabled": True},
    }
    model = torch.nn.Sequential(*layers)
    engine = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config
    )[0]
    return engine, hidden


def written_bytes() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def save(engine, stamps: Path, checkpoints: Path, step: int) -> None:
    folder, staged = checkpoints / f"step-{step}", engine.checkpoint_engine.is_decoupled()
    dist.barrier()
    begin, wrote = time.perf_counter(), written_bytes()
    engine.save_checkpoint(str(checkpoints), tag=folder.name)
    seconds = time.perf_counter() - begin
    note(stamps, "saved", step=step, seconds=seconds, wrote=written_bytes() - wrote)
    dist.barrier()
    if dist.get_rank() == 0:
        if staged:
            while not (folder / "manifest.json").exists():
                time.sleep(LOOK_S)
        else:
            sync(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        seconds = time.perf_counter() - begin
        note(stamps, "committed" if staged else "synced", step=step, seconds=seconds, wrote=size)
        if not staged and step > 1:
            shutil.rmtree(checkpoints / f"step-{step - 1}")
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="each with a save after it")
    args, _ = parser.parse_known_args()
    # Built on first use, for a minute and more; off for all who run this script.
    if get_accelerator().device_name() == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    engine, hidden = make_engine(args.parameters)
    for step in range(1, args.steps + 1):
        loss = engine(torch.randn(1, hidden, device=engine.device, dtype=torch.bfloat16)).square().mean()
        engine.backward(loss)
        engine.step()
        save(engine, args.stamps, args.checkpoints, step)
    engine.destroy()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
