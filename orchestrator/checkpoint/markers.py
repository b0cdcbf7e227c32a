"""What scripts and trainers leave beside their checkpoints to find the newest by: a link, or a small file
with its name or its step. One that leads to what is not there any more is led to what the run goes on from.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from orchestrator import papers
from orchestrator.checkpoint.script_saves import ScriptSave, step_of
from orchestrator.files import atomic_write

# DeepSpeed's and others'; Megatron's, which has the step alone.
_STEP_ALONE = "latest_checkpointed_iteration.txt"
_NAMES = ("latest", "latest_checkpoint", _STEP_ALONE)
_MOST_BYTES = 4096


def lead_to(folder: Path, newest: ScriptSave) -> list[str]:
    """Returns the names of the links and files that were changed."""
    changed = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        with contextlib.suppress(OSError, ValueError):
            if _leads_nowhere(entry):
                aside = entry.with_name(f".{entry.name}.{os.getpid()}")
                aside.symlink_to(newest.name)
                aside.replace(entry)
                changed.append(entry.name)
            elif entry.name in _NAMES and (text := _now(entry, newest)) is not None:
                atomic_write(entry, text)
                changed.append(entry.name)
    return changed


def _leads_nowhere(entry: Path) -> bool:
    """A link to something in its own folder that is gone; what leads elsewhere is none of our business."""
    if not entry.is_symlink() or entry.exists():
        return False
    return (entry.parent / entry.readlink()).parent == entry.parent


def _now(marker: Path, newest: ScriptSave) -> str | None:
    """What it has to say; None where it is right, or is not understood."""
    said = papers.read_text(marker, _MOST_BYTES).strip()
    if said.isdigit():
        there = int(said) in (step_of(entry.name) for entry in marker.parent.iterdir())
        return str(newest.step) if not there and newest.step is not None else None
    if not said:  # it was being written when its rank died
        of_steps = marker.name == _STEP_ALONE and newest.step is not None
        return str(newest.step) if of_steps else newest.name
    plain = said not in (".", "..") and "/" not in said
    return newest.name if plain and not (marker.parent / said).exists() else None
