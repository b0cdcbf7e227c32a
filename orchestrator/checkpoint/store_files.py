"""The steps of which a commit is made: each one happens whole or not at all, and is on disk when it
returns."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.checkpoint.manifest import MANIFEST, Manifest
from orchestrator.errors import ManifestError
from orchestrator.files import atomic_write, sync

REASON = "reason.txt"
REPLACED = "replaced-"
_REMOVED = "removed-"
_PARTIAL = ".partial"


def attempts_of(save_dir: Path) -> Path:
    return save_dir / ".attempts"


def folders_in(path: Path) -> list[Path]:
    """Folders of a folder by name; none when it is not there."""
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def sync_tree(folder: Path) -> None:
    """fsync every file and folder, and the name of ``folder`` itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                sync(path)
        sync(Path(parent))
    sync(folder.parent)


def replace_file(path: Path, text: str) -> None:
    """A file of ours, whole or as it was. One that a crash leaves half written has a name by which it is
    known."""
    atomic_write(path, text, 0o666, beside=f".{path.name}{_PARTIAL}")


def free_name(folder: Path, stem: str) -> Path:
    """``stem.1``, or with the first number after it that is not taken."""
    number = 1
    while os.path.lexists(folder / f"{stem}.{number}"):
        number += 1
    return folder / f"{stem}.{number}"


def move_files(source: Path, target: Path) -> None:
    """Move the plain files of a folder's root. Not ``latest``, which only a commit changes, and no hidden
    ones."""
    if not source.is_dir():
        return
    for path in sorted(source.iterdir()):
        if (
            path.is_file()
            and not path.is_symlink()
            and not path.name.startswith(".")
            and path.name != "latest"
        ):
            sync(path)
            os.replace(path, target / path.name)
    sync(source)


def set_aside(save_dir: Path, tag: str) -> None:
    """Make room for a new folder of this tag; the old one can still be put back."""
    if os.path.lexists(save_dir / tag):
        clear_replaced(save_dir, tag)
        os.rename(save_dir / tag, attempts_of(save_dir) / f"{REPLACED}{tag}")
        sync(attempts_of(save_dir))


def put_back(save_dir: Path) -> list[str]:
    """Undo each replacement that stopped between its two renames; the tags that are back."""
    tags = []
    for aside in folders_in(attempts_of(save_dir)):
        tag = aside.name.removeprefix(REPLACED)
        if tag != aside.name and not os.path.lexists(save_dir / tag):
            os.rename(aside, save_dir / tag)
            sync(save_dir)
            sync(attempts_of(save_dir))
            tags.append(tag)
    return tags


def clear_replaced(save_dir: Path, tag: str) -> None:
    """The tag's new folder is in place: take over what the old one had beside its checkpoint, and remove
    it."""
    aside, target = attempts_of(save_dir) / f"{REPLACED}{tag}", save_dir / tag
    if not os.path.lexists(aside):
        return
    for path in _beside_checkpoint(aside):
        kept = target / path.relative_to(aside)
        if not os.path.lexists(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, kept)
            sync(kept.parent)
    put_away(save_dir, aside)
    sweep(save_dir)


def _beside_checkpoint(folder: Path) -> Iterator[Path]:
    """Files that no manifest names and that DeepSpeed would not load: a tokenizer, the script's own notes."""
    try:
        named = set(Manifest.read(folder / MANIFEST).files)
    except (OSError, ManifestError):
        named = set()
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in sorted(names)):
            ours = path.name in (MANIFEST, REASON) or path.name.endswith(_PARTIAL)
            if not ours and path.suffix != ".pt" and path.relative_to(folder).as_posix() not in named:
                yield path


def put_away(save_dir: Path, folder: Path) -> None:
    """Take a folder out of sight by one rename; :func:`sweep` removes it."""
    away = attempts_of(save_dir)
    away.mkdir(exist_ok=True)
    os.rename(folder, free_name(away, f"{_REMOVED}{folder.name}"))
    sync(folder.parent)
    sync(away)


def sweep(save_dir: Path) -> None:
    """Remove what was put away, now or by a process that did not get further. What resists stays for the next
    time."""
    for path in attempts_of(save_dir).glob(f"{_REMOVED}*"):
        if path.is_symlink():
            path.unlink()
        else:
            # The mark goes first: nobody may take the rest for a whole checkpoint.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
