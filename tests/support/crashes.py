"""Checkpoint directories, and what a power cut at any moment leaves of them."""

from __future__ import annotations

import builtins
import hashlib
import io
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator.checkpoint.store import (
    FilePart,
    Manifest,
    attempt_dir,
    prune,
    publish,
    quarantine,
    scan,
    verify,
)

SHARDS = {
    "mp_rank_00_model_states.pt": b"weights" * 50,
    "zero_pp_rank_1_mp_rank_00_optim_states.pt": b"momentum" * 40,
    "extra/position.json": b"{}",
}


def contents(step: int, attempt: int = 1) -> dict[str, bytes]:
    """Files of one checkpoint, different for every step and attempt, though of the same size."""
    return {path: data + f"{step:06d}-{attempt:04d}".encode() for path, data in SHARDS.items()}


def written(
    save_dir: Path, step: int, *, tag: str | None = None, attempt: int = 1, hours: float = 0.0
) -> Manifest:
    """Let the ranks of an attempt write a checkpoint, and return the manifest to commit it with."""
    tag = tag or f"step-{step}"
    files = contents(step, attempt)
    folder = attempt_dir(save_dir, attempt, step, tag)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return manifest_of(files, step, tag, attempt, hours)


def manifest_of(
    files: Mapping[str, bytes], step: int, tag: str, attempt: int = 1, hours: float = 0.0
) -> Manifest:
    parts = {
        path: FilePart(hashlib.sha256(data).hexdigest(), len(data), int("rank_1" in path))
        for path, data in files.items()
    }
    return Manifest("a-run", attempt, step, tag, 2, 1e9 + hours * 3600.0, parts)


def committed(save_dir: Path, step: int, **more: Any) -> Manifest:
    """A checkpoint that has its name and is the latest."""
    manifest = written(save_dir, step, **more)
    publish(save_dir, manifest, save_latest=True)
    return manifest


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden or not; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def copy(source: Path, target: Path) -> None:
    """By links, for speed: nothing may ever write into a file that is there."""
    shutil.copytree(source, target, copy_function=os.link)


def good(save_dir: Path) -> set[str]:
    """Tags that a restore would be offered; each has to hold what its manifest says."""
    found = scan(save_dir)
    assert found.odd == {}
    for manifest in found.committed:
        assert verify(save_dir, manifest, threads=1) == {}
    return {manifest.tag for manifest in found.committed}


def named(save_dir: Path) -> str | None:
    latest = save_dir / "latest"
    return latest.read_text() if latest.exists() else None


class PowerCut(BaseException):
    """Not an Exception: nothing that the code under test catches."""


class Machine:
    """Runs something until its ``cut``-th operation on the file system, before which the power fails.

    What was written to a file and not synced is half gone then. ``log`` lists the operations with their
    paths; a sync is only noted, for the sake of speed.
    """

    CALLS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir", "open")

    def __init__(self, cut: int | None = None) -> None:
        self.log: list[tuple[str, str]] = []
        self._cut = cut
        self._unsynced: dict[int, io.IOBase] = {}  # by inode; open files of their own keep them reachable

    def run(self, operation: Callable[[], object]) -> bool:
        """Whether the power failed before the operation returned."""
        real = {name: getattr(os, name) for name in self.CALLS}
        real_open = io.open
        patches = [mock.patch.object(os, name, self._wrapped(name, call)) for name, call in real.items()]

        def opened(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real_open(path, mode, *rest, **more)
            # one of os.fdopen's
            where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
            self._count("write", str(where))
            stream = real_open(path, mode, *rest, **more)
            self._unsynced[os.fstat(stream.fileno()).st_ino] = real_open(where, "r+b")
            return stream

        patches += [mock.patch.object(io, "open", opened), mock.patch.object(builtins, "open", opened)]
        try:
            for patch in patches:
                patch.start()
            operation()
        except PowerCut:
            for stream in self._unsynced.values():
                stream.truncate(stream.seek(0, os.SEEK_END) // 2)
            return True
        finally:
            for patch in reversed(patches):
                patch.stop()
            for stream in self._unsynced.values():
                stream.close()
        return False

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(first: Any, *rest: Any, **more: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{first}") if name == "fsync" else os.fspath(first)
            self._count(name, path)
            if name == "fsync":
                held = self._unsynced.pop(os.fstat(first).st_ino, None)
                return held.close() if held else None
            return call(first, *rest, **more)

        return wrapper

    def _count(self, name: str, path: str) -> None:
        if self._cut is not None and len(self.log) >= self._cut:
            raise PowerCut
        self.log.append((name, path))


def churn(save_dir: Path, first_step: int) -> None:
    """Commit, replace, prune and quarantine until killed, each promise said as soon as it holds."""
    for step in itertools.count(first_step):
        committed(save_dir, step)
        print(f"committed step-{step}", flush=True)
        committed(save_dir, step, tag="last")
        print("committed last", flush=True)
        prune(save_dir, 2, None, 2e9, ())
        if step % 3 == 0:
            print(f"quarantining step-{step}", flush=True)
            quarantine(save_dir, f"step-{step}", "for a test")


if __name__ == "__main__":
    churn(Path(sys.argv[1]), int(sys.argv[2]))
