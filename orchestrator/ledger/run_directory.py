"""A run's directory on the driver: made, checked, held by one live run at a time, written atomically."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import ConfigError, RunDirectoryError, near_miss
from orchestrator.files import atomic_write, make_folder, open_no_link
from orchestrator.papers import PaperError, open_plain, read_text, short, why_no_path
from orchestrator.trust import check_ours

# The whole configuration of a run, secrets included, for whoever takes it up: readable by its owner alone.
RESUME = "resume.json"
# The state of a run whose driver is gone without a last word.
LOST = "lost"
# Folders of a run root that are no run's.
_OF_ALL_RUNS = {"spend": "what all runs spend", "fleet": "the queue of jobs"}
# A number of a process, or of a run.
_MOST_LOCK_BYTES = 64


def check_run_name(name: str) -> None:
    """A run's name is one folder below ``run_root``. Raises :class:`ConfigError`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise ConfigError(
            f"run_name={name}: a name is letters, digits, '.', '_' and '-', at most 128; "
            "to choose the folder itself set run_dir"
        )
    if name in _OF_ALL_RUNS:
        raise ConfigError(f"run_name={name}: run_root/{name} holds {_OF_ALL_RUNS[name]}; choose another name")


def new_run_name(job: str) -> str:
    """Readable, sorted by time, unique also among a sweep's many: ``261122-030405-9f3a17c2-tiny_gpt``. Tables
    and legends show some twenty characters of a name, so what tells runs apart comes before what they
    share."""
    return f"{time.strftime('%y%m%d-%H%M%S')}-{secrets.token_hex(4)}-{job}"


def find_run(run: str, run_root: str | Path, trust: bool = False) -> Path:
    """The directory of a run that is there, by its name below ``run_root`` or by its path.

    Raises :class:`ConfigError` with the near misses by name, and unless ``trust`` for one that is not ours.
    """
    for path in (Path(run_root) / run, Path(run)):
        if (why := why_no_path(str(path / "journal.jsonl"))) is not None:
            raise ConfigError(
                f"{short(run)} is no name of a run: {why}; give a run's name below run_root, or a path"
            )
    for path in (Path(run_root) / run, Path(run)):
        closed = os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)
        if closed or os.path.isfile(path / "journal.jsonl"):
            if not trust:
                check_ours(path, "a run")
            if closed:
                raise ConfigError(
                    f"{path}: you may not look into it; its owner can open it (run_group_reads=true)"
                )
            return path.resolve()
    if Path(run).is_dir():
        raise ConfigError(
            f"{run}: not a run directory, it has no journal.jsonl; give one that has, or a run's name"
        )
    newest = sorted(
        Path(run_root).glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    names = [path.parent.name for path in newest]
    there = f"newest: {', '.join(names[:3])}" if names else "there is none yet"
    raise ConfigError(
        f"no run {run!r} in {run_root}{near_miss(run, names)} ({there}); set run_root to look elsewhere"
    )


def holder(path: Path) -> str | None:
    """The process that holds a run's directory, None when no live run does."""
    try:
        lock = open_plain(path / "lock")
    except FileNotFoundError:
        return None
    except (OSError, PaperError):
        return "unknown"
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return lock.read(_MOST_LOCK_BYTES).decode(errors="replace").strip() or "unknown"
    return None


def make_run_dir(path: Path, group_reads: bool = False) -> None:
    """What its files say is the owner's alone; how an existing folder is shared is its owner's choice."""
    make_folder(path, 0o750 if group_reads else 0o700)
    (path / "logs").mkdir(exist_ok=True)


def number_of_run(path: Path) -> str:
    """By which a run goes where its name is nobody's business: drawn once, in a file that its owner alone can
    read."""
    try:
        return read_text(path / "number", _MOST_LOCK_BYTES).strip()
    except (FileNotFoundError, ValueError):
        number = secrets.token_hex(6)
        atomic_write(path / "number", number + "\n", 0o600)
        return number


class RunDirectory:
    """Holds ``path`` until :meth:`release` or the end of the process, whichever comes first. A new one is
    open to our user alone, or to be read by the folder's group as well."""

    def __init__(self, path: Path, group_reads: bool = False) -> None:
        self.path = path.resolve()
        self._group_reads = group_reads
        self._lock: IO[str] | None = None

    def hold(self, resume: bool = False) -> None:
        """Create the directory and lock it.

        Raises :class:`RunDirectoryError` when it cannot be written, when another live run holds
        it, or when it already has a journal that is not to be gone on with (none is ever written over).
        """
        try:
            make_run_dir(self.path, self._group_reads)
            self._lock = open_no_link(self.path / "lock", "a+")
        except OSError as error:
            raise RunDirectoryError(
                f"run directory {self.path}: cannot be written ({error.strerror}); set run_root or run_dir "
                "to a folder that you may write"
                if error.errno != errno.ELOOP
                else f"run directory {self.path}: its file 'lock' is a link, which is not followed; remove it"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise RunDirectoryError(
                f"run directory {self.path}: held by another live run (process {holder}); "
                "stop that run, or choose another run_name or run_dir"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        journal = self.path / "journal.jsonl"
        if not resume and journal.exists() and journal.stat().st_size > 0:
            self.release()
            raise RunDirectoryError(
                f"run directory {self.path}: holds an earlier run's journal; take that run up with"
                " 'orchestrator resume' or job.resume=auto, choose another run_name or run_dir, or remove"
                " the folder"
            )

    def release(self) -> None:
        """Let another run hold the directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file whole or not at all."""
        return atomic_write(self.path / name, text, mode)

    def write_json(self, name: str, value: Any, mode: int = 0o644) -> Path:
        """Write JSON whole or not at all."""
        return self.write(name, json.dumps(value, indent=2) + "\n", mode)
