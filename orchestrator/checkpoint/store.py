"""A directory of committed checkpoints on a POSIX file system, whole after a crash at any moment.

::

    SAVE_DIR/TAG/                          committed: its files and manifest.json
    SAVE_DIR/latest                        the tag that DeepSpeed loads when it is asked for none
    SAVE_DIR/.attempts/attempt-0002-step-000040/TAG/   being written by the ranks of attempt 2, at step 40
    SAVE_DIR/.attempts/replaced-TAG/       the folder that a new one of the same tag takes the place of
    SAVE_DIR/.attempts/removed-TAG.1/      on its way out
    SAVE_DIR/.quarantine/TAG.1/            not loaded any more, with reason.txt

A checkpoint appears and goes by one rename of its folder. A folder of the same tag cannot be exchanged in one
step everywhere, so it is set aside first: a ``replaced-TAG`` without a TAG tells of a crash in between, and
:func:`repair_latest` puts it back. One process at a time changes the directory, on the driver's word.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator import papers
from orchestrator.checkpoint import store_files
from orchestrator.checkpoint.manifest import (
    MANIFEST,
    FilePart,
    Manifest,
    check_tag,
    misfits,
    refuse_misfits,
    refuse_object_store,
    verify,
)
from orchestrator.errors import ManifestError
from orchestrator.files import sync

__all__ = [
    "FilePart",
    "Manifest",
    "ManifestError",
    "Scan",
    "attempt_dir",
    "prune",
    "publish",
    "quarantine",
    "quarantine_folder",
    "refuse_object_store",
    "repair_latest",
    "scan",
    "tidy",
    "verify",
]

_LATEST = "latest"
_MOST_LATEST_BYTES = 4096
_ATTEMPT = re.compile(r"attempt-(\d+)-step-(\d+)")


@dataclass(frozen=True)
class Scan:
    """What a checkpoint directory holds: ``committed`` oldest step first, ``odd`` folders with the reason why
    their manifest does not count, and ``unmanifested`` tags that have ``*.pt`` files but no manifest."""

    committed: list[Manifest]
    odd: dict[str, str]
    unmanifested: list[str]


def attempt_dir(save_dir: Path, attempt: int, step: int, tag: str) -> Path:
    """Where the ranks of an attempt write the files of a tag. Raises ManifestError for a tag that is no
    name."""
    check_tag(tag)
    return store_files.attempts_of(save_dir) / f"attempt-{attempt:04d}-step-{step:06d}" / tag


def publish(save_dir: Path, manifest: Manifest, save_latest: bool) -> Path:
    """Commit what the attempt wrote, and point ``latest`` at it; again after a crash, finish what is left to
    do.

    Files of the attempt folder's root move to ``save_dir``. Of a folder that is replaced, what no manifest
    names and DeepSpeed would not load (a tokenizer, the script's notes) stays with the tag.

    Raises:
        ManifestError: files are missing or of another size, or a later attempt has committed this tag.
    """
    source = attempt_dir(save_dir, manifest.attempt, manifest.step, manifest.tag)
    target = save_dir / manifest.tag
    committed = _committed(save_dir, manifest.tag)
    if committed and committed.run == manifest.run and committed.attempt > manifest.attempt:
        raise ManifestError(
            f"{target} was committed by attempt {committed.attempt}: attempt {manifest.attempt} is stale and"
            " cannot replace it"
        )
    done = committed == manifest
    # a node of which no rank wrote a file: its manifest says that it has its part
    if not done and not manifest.files:
        source.mkdir(parents=True, exist_ok=True)
    refuse_misfits(target if done else source, manifest)
    if not done:
        store_files.replace_file(source / MANIFEST, manifest.to_json())
        store_files.sync_tree(source)
        store_files.set_aside(save_dir, manifest.tag)
        os.rename(source, target)
    store_files.move_files(source.parent, save_dir)
    sync(save_dir)
    if save_latest:
        store_files.replace_file(save_dir / _LATEST, manifest.tag)
    store_files.clear_replaced(save_dir, manifest.tag)
    store_files.sweep(save_dir)
    return target


def scan(save_dir: Path) -> Scan:
    """Look, and change nothing. After a crash call :func:`repair_latest` before."""
    found = Scan([], {}, [])
    for folder in sorted(store_files.folders_in(save_dir)):
        if folder.name.startswith("."):
            continue
        try:
            manifest = Manifest.read(folder / MANIFEST)
        except FileNotFoundError:
            if any(folder.glob("*.pt")):
                found.unmanifested.append(folder.name)
        except (OSError, ManifestError) as error:
            found.odd[folder.name] = getattr(error, "strerror", None) or str(error)
        else:
            if manifest.tag == folder.name:
                found.committed.append(manifest)
            else:
                found.odd[folder.name] = (
                    f"its manifest is that of {manifest.tag}: a folder cannot be renamed or copied"
                )
    found.committed.sort(key=lambda manifest: (manifest.step, manifest.attempt, manifest.tag))
    return found


def quarantine(save_dir: Path, tag: str, reason: str) -> Path:
    """Take a checkpoint out of service; the folder where it is now. ``latest`` names another one before it
    moves.

    Raises ManifestError when there is no such checkpoint, quarantined or not.
    """
    check_tag(tag)
    store_files.put_back(save_dir)
    folder, ward = save_dir / tag, save_dir / ".quarantine"
    if _latest(save_dir) == tag:
        _point_away(save_dir, tag)
    if folder.is_dir():
        store_files.clear_replaced(save_dir, tag)
        ward.mkdir(exist_ok=True)
        with suppress(OSError):  # a full disk must not keep a torn checkpoint in service
            store_files.replace_file(folder / store_files.REASON, reason.rstrip() + "\n")
        os.rename(folder, store_files.free_name(ward, tag))
    elif not any(ward.glob(f"{tag}.*")):
        raise ManifestError(f"{folder} is not there: there is nothing to quarantine")
    sync(ward)
    sync(save_dir)
    store_files.sweep(save_dir)
    number = re.compile(re.escape(tag) + r"\.(\d+)")
    numbers = [int(match[1]) for entry in ward.iterdir() if (match := number.fullmatch(entry.name))]
    return ward / f"{tag}.{max(numbers)}"


def quarantine_folder(folder: Path, reason: str) -> Path:
    """Take a checkpoint out of service with the folder that it has to itself, and all that the script put
    there, or the one file that it is; where it is now, beside where it was."""
    ward = folder.parent / ".quarantine"
    ward.mkdir(exist_ok=True)
    with suppress(OSError):  # a full disk must not keep it in service
        if folder.is_dir():
            store_files.replace_file(folder / store_files.REASON, reason.rstrip() + "\n")
    place = store_files.free_name(ward, folder.name)
    os.rename(folder, place)
    sync(ward)
    sync(folder.parent)
    return place


def prune(
    save_dir: Path, keep: int, keep_hours: float | None, now_unix_s: float, protect: Collection[str]
) -> list[str]:
    """Remove committed checkpoints that are not among the newest ``keep`` and are ``keep_hours`` old; their
    tags.

    ``keep`` 0 keeps all, ``keep_hours`` None keeps none for its age. The newest one whose files are all there
    stays in any case, and so do the one that ``latest`` names and those in ``protect``.
    """
    committed = scan(save_dir).committed
    if committed:
        _remove_emptied(save_dir, committed[-1].step)
    if keep <= 0:
        return []
    kept = {manifest.tag for manifest in committed[-keep:]} | {*protect, _latest(save_dir)}
    kept.add(next((good.tag for good in reversed(committed) if not misfits(save_dir / good.tag, good)), None))
    old_unix_s = now_unix_s - (keep_hours or 0.0) * 3600.0
    surplus = [
        manifest.tag
        for manifest in committed
        if manifest.tag not in kept and (keep_hours is None or manifest.written_unix_s <= old_unix_s)
    ]
    for tag in surplus:
        store_files.clear_replaced(save_dir, tag)
        store_files.put_away(save_dir, save_dir / tag)
    store_files.sweep(save_dir)
    return surplus


def _remove_emptied(save_dir: Path, below_step: int) -> None:
    """What attempts' folders are left of after commits; at later steps ranks may be making theirs."""
    for folder in store_files.folders_in(store_files.attempts_of(save_dir)):
        match = _ATTEMPT.fullmatch(folder.name)
        if match and int(match[2]) < below_step:
            with suppress(OSError):  # not empty: something is on its way
                folder.rmdir()


def tidy(save_dir: Path, attempts_before: int, keep: Collection[str] = ()) -> None:
    """Remove what attempts below ``attempts_before`` left unfinished, but for the tags in ``keep``.

    Numbers start again with each run: a new run in an old directory removes all of them first, or its own
    attempt 1 would write among files of another one.
    """
    store_files.put_back(save_dir)
    for folder in store_files.folders_in(store_files.attempts_of(save_dir)):
        number = _ATTEMPT.fullmatch(folder.name)
        if number and int(number[1]) < attempts_before:
            held = [tag for tag in store_files.folders_in(folder) if tag.name in keep]
            for entry in store_files.folders_in(folder) if held else [folder]:
                if entry not in held:
                    shutil.rmtree(entry, ignore_errors=True)
        elif folder.name.startswith(store_files.REPLACED):
            tag = folder.name.removeprefix(store_files.REPLACED)
            if tag not in keep:
                store_files.clear_replaced(save_dir, tag)
    store_files.sweep(save_dir)


def repair_latest(save_dir: Path) -> str | None:
    """After a crash: put back what was set aside and not replaced, and let ``latest`` name a committed
    checkpoint.

    Returns what was done in a sentence, None when nothing had to be.
    """
    remarks = [f"put {tag} back, whose replacement was cut short" for tag in store_files.put_back(save_dir)]
    tags = [manifest.tag for manifest in scan(save_dir).committed]
    named = _latest(save_dir)
    if tags and named not in tags:
        store_files.replace_file(save_dir / _LATEST, tags[-1])
        was = (
            "was missing"
            if named is None
            else f"named {named!r}, which is not committed"
            if named
            else "was empty"
        )
        remarks.append(f"'latest' {was}: it names {tags[-1]} now, the newest committed checkpoint")
    return f"{save_dir}: {'; '.join(remarks)}" if remarks else None


def _committed(save_dir: Path, tag: str) -> Manifest | None:
    try:
        manifest = Manifest.read(save_dir / tag / MANIFEST)
    except (OSError, ManifestError):
        return None
    return manifest if manifest.tag == tag else None


def _latest(save_dir: Path) -> str | None:
    """The name in ``latest``; None when there is none that could be read."""
    try:
        return papers.read_text(save_dir / _LATEST, _MOST_LATEST_BYTES).strip()
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None


def _point_away(save_dir: Path, tag: str) -> None:
    others = [manifest.tag for manifest in scan(save_dir).committed if manifest.tag != tag]
    if others:
        # On a full disk no new file can be made; none at all is better than one that names a bad checkpoint.
        with suppress(OSError):
            return store_files.replace_file(save_dir / _LATEST, others[-1])
    (save_dir / _LATEST).unlink(missing_ok=True)
    sync(save_dir)
    return None
