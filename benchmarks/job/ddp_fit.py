"""A plain training with torch's DDP that notes how far it has come, in the form of trains_on.py's notes.

It knows nothing of who started it.
"""

import time

BEGAN_UNIX_S = time.time()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

IMPORTED_UNIX_S = time.time()
HIDDEN, LAYERS, BATCH = 256, 4, 4


def note(folder: Path, what: str, at: float | None = None, **more: float) -> None:
    line = json.dumps({"what": what, "at": time.time() if at is None else at, **more})
    with (folder / f"rank-{os.environ['RANK']}.{os.getpid()}.jsonl").open("a") as file:
        file.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1)
    args = parser.parse_args()
    note(args.stamps, "script", BEGAN_UNIX_S)
    note(args.stamps, "imported", IMPORTED_UNIX_S)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    torch.manual_seed(0)
    blocks = [layer for _ in range(LAYERS) for layer in (torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.GELU())]
    model = DistributedDataParallel(torch.nn.Sequential(*blocks, torch.nn.Linear(HIDDEN, 1)).to(device))
    optimizer = torch.optim.AdamW(model.parameters())
    note(args.stamps, "initialized")
    for step in range(1, args.steps + 1):
        loss = model(torch.randn(BATCH, HIDDEN, device=device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        note(args.stamps, "step", step=step)
    dist.destroy_process_group()
    # Torch 2.13 waits for gloo's threads while it holds Python's lock, for which one that frees its last work
    # may wait: then neither ever ends. All has been measured.
    time.sleep(0.3)


if __name__ == "__main__":
    main()
