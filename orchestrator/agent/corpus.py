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
class TextFile:
    """One file of the corpus; ``name`` is relative to its source, and the same on every node."""

    path: str
    name: str
    size_bytes: int


@dataclass(frozen=True)
class Corpus:
    """What was found. ``fingerprint`` covers every file's name, size, first and last 64 KiB."""

    files: int
    size_bytes: int
    fingerprint: str


def survey(sources: Sequence[str], cwd: Path, least_bytes: int = 1) -> Corpus:
    """Find the files and read a sample of each. Raises :class:`ConfigError` as :func:`find` does."""
    files, digest = find(sources, cwd, least_bytes), hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size_bytes}\0".encode())
        digest.update(_sample(file))
    return Corpus(len(files), sum(file.size_bytes for file in files), digest.hexdigest())


def find(sources: Sequence[str], cwd: Path, least_bytes: int = 1) -> list[TextFile]:
    """The files of the sources, relative ones from ``cwd``; none is opened.

    Raises :class:`ConfigError` when a source names no file, or all of them together hold fewer than
    ``least_bytes`` (one sequence and the token after it).
    """
    files: list[TextFile] = []
    for source in sources:
        root, paths = _paths(source, cwd)
        if not paths:
            raise ConfigError(
                f"job.corpus: '{source}' names no file (looked in {cwd}); "
                f"give an existing file, directory or glob, or '{STDLIB}'"
            )
        files += [
            TextFile(path, path.removeprefix(f"{root}{os.sep}"), os.stat(path).st_size) for path in paths
        ]
    size_bytes = sum(file.size_bytes for file in files)
    if size_bytes < least_bytes:
        raise ConfigError(
            f"job.corpus: {','.join(sources)} holds {size_bytes} bytes in {len(files)}"
            f" file{'s' * (len(files) != 1)}, but one sequence needs {least_bytes}; give more text or"
            " a smaller model.seq_len"
        )
    return files


def _paths(source: str, cwd: Path) -> tuple[Path, list[str]]:
    """The folder that names are relative to, and the files in a fixed order."""
    if source == STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        return root, _walk(root, ".py", beside=frozenset({"site-packages", "dist-packages"}))
    root = cwd / Path(source).expanduser()
    if root.is_dir():
        return root, _walk(root)
    if root.is_file():
        return root.parent, [str(root)]
    found = sorted(name for name in glob.glob(str(root), recursive=True) if os.path.isfile(name))
    return (Path(os.path.commonpath([os.path.dirname(path) for path in found])) if found else root), found


def _walk(root: Path, suffix: str = "", beside: frozenset[str] = frozenset()) -> list[str]:
    """Files below a folder, without hidden ones, caches and the folders named in ``beside``.

    As text: a ``Path`` for each of thousands of files takes longer than all the rest of a plan.
    """
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__" and f not in beside]
        found += [
            f"{folder}{os.sep}{name}" for name in names if name.endswith(suffix) and not name.startswith(".")
        ]
    return sorted(path for path in found if os.path.isfile(path))


def _sample(file: TextFile) -> bytes:
    with open(file.path, "rb") as stream:
        head = stream.read(_SAMPLED_BYTES)
        stream.seek(max(len(head), file.size_bytes - _SAMPLED_BYTES))
        return head + stream.read(_SAMPLED_BYTES)
