"""A directory of DeepSpeed checkpoints that can be trusted after any crash.

    checkpoint_dir/
      step-000020/     what `engine.save_checkpoint` wrote, and job.json, written when every rank has finished
      step-000040/
      latest           name of the one to load

A launcher that stages checkpoints in memory puts them here by itself, each with a manifest.json in place of
job.json, and prunes them as it likes.

DeepSpeed can write `latest` too, but it truncates and rewrites the file in place: a crash there leaves it
empty, and with no usable `latest` ranks start at step 0 without a word. Here it is replaced by rename.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

TAG = re.compile(r"step-(\d+)")
COMPLETE = "job.json"
MARKS = (COMPLETE, "manifest.json")


class CheckpointError(Exception):
    """The directory cannot be resumed from; the message is one line that says what to change."""


def tag_of(step: int) -> str:
    return f"step-{step:06d}"


def step_of(tag: str | None) -> int:
    """Step number a tag begins with, -1 for no tag or none of ours."""
    match = TAG.match(tag or "")
    return int(match[1]) if match else -1


def find(directory: Path) -> tuple[str | None, str]:
    """Tag to load, None to start at step 0, and a remark for the log ("" when there is nothing to say).

    Without `latest`, the newest complete checkpoint is the one: the writer died between the two. Folders
    without job.json or manifest.json are saves that never finished.

    Raises:
        CheckpointError: `latest` names something that is not there.
    """
    complete, torn = _folders(directory)
    try:
        tag = (directory / "latest").read_text().strip()
    except FileNotFoundError:
        missing = f"{directory} has no 'latest'"
        if complete:
            return complete[-1], f"{missing}: taking {complete[-1]}, the newest complete one"
        if torn:
            return None, f"{missing} and only an unfinished {torn[-1]}: starting at step 0"
        return None, ""
    if step_of(tag) < 0 or not (directory / tag).is_dir():
        raise CheckpointError(
            f"{directory}/latest names {tag!r}, which is not there: put it back, or write the name of a "
            f"complete checkpoint into 'latest' (complete: {', '.join(complete) or 'none'})"
        )
    return tag, ""


def find_universal(directory: Path) -> str | None:
    """Tag that DeepSpeed's converter wrote for another number of ranks, None for a fresh start.

    Raises:
        CheckpointError: it is older than the newest checkpoint, so that steps already paid for would be lost.
    """
    newest, _ = find(directory)
    pointer = directory / "latest_universal"
    tag = pointer.read_text().strip() if pointer.is_file() else None
    if step_of(tag) < step_of(newest):
        raise CheckpointError(
            f"{directory} has {newest}, but its universal checkpoint is {tag or 'missing'}: convert {newest} "
            "with python -m deepspeed.checkpoint.ds_to_universal, or take load_universal out of the JSON"
        )
    return tag


def _folders(directory: Path) -> tuple[list[str], list[str]]:
    """Complete and torn checkpoints, oldest first."""
    names = [path.name for path in directory.glob("step-*") if TAG.fullmatch(path.name)]
    names.sort(key=step_of)
    complete = [name for name in names if any((directory / name / mark).is_file() for mark in MARKS)]
    return complete, [name for name in names if name not in complete]


def saved_identity(directory: Path, tag: str) -> dict[str, Any] | None:
    """What the job wrote about itself, readable before any tensor; None if another hand completed it."""
    try:
        saved: dict[str, Any] = json.loads((directory / tag / COMPLETE).read_bytes())
    except FileNotFoundError:
        return None
    return saved


def refuse_other_job(saved: dict[str, Any], ours: dict[str, Any], place: str) -> None:
    """Raise CheckpointError when a checkpoint is of another model, corpus or seed."""
    for key, value in ours.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"{place} has {key}={saved.get(key)} but this job has {key}={value}: "
                "use the same settings, or another --checkpoint_dir"
            )


def discard_leftover(directory: Path, tag: str) -> None:
    """Remove a folder of this name from an attempt that died, so that no old file passes for a new one."""
    _remove(directory / tag)


def commit(directory: Path, tag: str, identity: dict[str, Any], keep: int) -> None:
    """Mark a checkpoint whose files are all on disk complete, point `latest` at it, prune the rest.

    Called by rank 0 after a barrier. Keeps the newest `keep` complete checkpoints, at least this one;
    `keep` 0 keeps all.
    """
    _replace(directory / tag / COMPLETE, json.dumps(identity, indent=1))
    _replace(directory / "latest", tag)
    complete, torn = _folders(directory)
    older = [name for name in complete if name != tag]
    surplus = older[: max(0, len(older) - (keep - 1))] if keep else []
    for name in (*surplus, *torn):
        _remove(directory / name)


def make_durable(folder: Path) -> None:
    """fsync every file of a checkpoint: `torch.save` leaves them in the page cache."""
    for path in (*(p for p in folder.rglob("*") if p.is_file()), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(folder: Path) -> None:
    # The marks go first: a removal cut short must not leave a folder that looks complete.
    for mark in MARKS:
        (folder / mark).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".partial")
    with beside.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(beside, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
