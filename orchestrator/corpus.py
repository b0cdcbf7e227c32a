"""Which text a job reads, seen from outside: found, not empty, and the same on every node.

The job itself opens the corpus by the same rules (files, directories without hidden files, globs, or
``stdlib``); here it is only looked at, so that a wrong path costs nothing and two nodes with
different text are told apart before training starts.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ConfigError

STDLIB = "stdlib"
_SAMPLED_BYTES = 64 * 1024


@dataclass(frozen=True)
class Corpus:
    """What was found. ``fingerprint`` covers every file's name, size, first and last 64 KiB."""

    files: int
    size_bytes: int
    fingerprint: str


def survey(sources: Sequence[str], cwd: Path, least_bytes: int = 1) -> Corpus:
    """Look at the sources, relative ones from ``cwd``.

    Raises :class:`ConfigError` when a source names no file, or all of them together hold fewer than
    ``least_bytes`` (one sequence and the token after it).
    """
    digest, files, size_bytes = hashlib.sha256(), 0, 0
    for source in sources:
        root, found = _find(source, cwd)
        if not found:
            raise ConfigError(
                f"job.corpus: '{source}' names no file (looked in {cwd}); "
                f"give an existing file, directory or glob, or '{STDLIB}'"
            )
        for path in found:
            bytes_of_file = path.stat().st_size
            digest.update(f"{path.relative_to(root).as_posix()}\0{bytes_of_file}\0".encode())
            digest.update(_sample(path, bytes_of_file))
            files, size_bytes = files + 1, size_bytes + bytes_of_file
    if size_bytes < least_bytes:
        raise ConfigError(
            f"job.corpus: {','.join(sources)} holds {size_bytes} bytes in {files} files, but one sequence "
            f"needs {least_bytes}; give more text or a smaller model.seq_len"
        )
    return Corpus(files, size_bytes, digest.hexdigest())


def _find(source: str, cwd: Path) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files in a fixed order."""
    if source == STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        return root, _walk(root, ".py", beside=frozenset({"site-packages", "dist-packages"}))
    root = cwd / Path(source).expanduser()
    if root.is_dir():
        return root, _walk(root)
    if root.is_file():
        return root.parent, [root]
    found = sorted(Path(name) for name in glob.glob(str(root), recursive=True) if os.path.isfile(name))
    return (Path(os.path.commonpath([p.parent for p in found])) if found else root), found


def _walk(root: Path, suffix: str = "", beside: frozenset[str] = frozenset()) -> list[Path]:
    """Files below a folder, without hidden ones, caches and the folders named in ``beside``."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__" and f not in beside]
        found += [Path(folder, name) for name in names if name.endswith(suffix) and not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _sample(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as stream:
        head = stream.read(_SAMPLED_BYTES)
        stream.seek(max(len(head), size_bytes - _SAMPLED_BYTES))
        return head + stream.read(_SAMPLED_BYTES)
