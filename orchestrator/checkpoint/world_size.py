"""Which checkpoints a number of ranks can load. Pure, but for :func:`newest_in`, which looks at a folder.

ZeRO gives every rank a part of the optimizer's state, and DeepSpeed loads the parts with as many ranks as
have written them. The manifest knows how many that were, so it is said before ranks start and not by each of
them in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.checkpoint import store
from orchestrator.checkpoint.manifest import Manifest

# In the names of files that DeepSpeed writes for each rank: ZeRO's parts and a rank's experts.
_OF_ONE_RANK = ("zero_pp_rank_", "expp_rank_")
# What DeepSpeed's converter leaves beside the checkpoints that it has made one of for any number of ranks.
_CONVERTED = "latest_universal"


def misfit(manifest: Manifest, ranks: int) -> str | None:
    """Why so many ranks cannot load a checkpoint; None where they can."""
    if manifest.world_size == ranks:
        return None
    if not any(mark in name for name in manifest.files for mark in _OF_ONE_RANK):
        return None
    return (
        f"{_ranks(manifest.world_size)} wrote it with ZeRO, each a part, and this run has {_ranks(ranks)}: "
        "DeepSpeed loads it with as many as wrote it"
    )


def loads_any_number(deepspeed: Mapping[str, Any]) -> bool:
    """Whether a DeepSpeed configuration asks to load what another number of ranks has written."""
    checkpoint, zero = deepspeed.get("checkpoint") or {}, deepspeed.get("zero_optimization") or {}
    return bool(checkpoint.get("load_universal") or zero.get("elastic_checkpoint"))


def is_converted(folder: Path) -> bool:
    """Whether a checkpoint there was converted for any number of ranks: which one is loaded is then the
    script's own affair."""
    return (folder / _CONVERTED).is_file()


def refusal(folder: Path, manifest: Manifest, why: str, ranks: int) -> str:
    """What a person is told who asks ``ranks`` ranks to go on from there."""
    return (
        f"job.ranks={ranks}: cannot go on from {folder / manifest.tag}, the checkpoint of step"
        f" {manifest.step}: {why}; set job.ranks={manifest.world_size}, or convert it with python -m"
        " deepspeed.checkpoint.ds_to_universal and set +deepspeed.checkpoint.load_universal=true, or name"
        " another folder in job.checkpoint_dir"
    )


def newest_in(folder: Path) -> tuple[Path, Manifest] | None:
    """The newest committed checkpoint and the folder that a script knows it by: this one, or one in it where
    every checkpoint has a folder of its own."""
    found = [(place, one) for place in places_in(folder) for one in store.scan(place).committed]
    return max(found, key=lambda pair: (pair[1].step, pair[1].attempt), default=None)


def places_in(folder: Path) -> list[Path]:
    """Folders in which committed checkpoints may be: this one, and those in it that hold some."""
    if not folder.is_dir():
        return []
    inner = (
        one
        for one in sorted(folder.iterdir())
        if not one.name.startswith(".") and any(one.glob("*/manifest.json"))
    )
    return [folder, *inner]


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"
