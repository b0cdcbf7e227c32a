"""Where checkpoints lie, and which is the newest."""

import os
from pathlib import Path

import torch


def save(folder: Path, step: int, **state: object) -> None:
    path = folder / f"iter_{step:07d}.pt"
    torch.save({"step": step, **state}, f"{path}.part")
    os.replace(f"{path}.part", path)


def load(path: str) -> dict:
    return torch.load(path, map_location="cpu")
