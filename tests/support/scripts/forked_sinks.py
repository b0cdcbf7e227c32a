"""Sinks that are forked from a process which has imported MLflow, so that many of them cost one import.

forked_sinks.py at-once FIRST RUN_DIR...
    The first in this process, so that MLflow has loaded all it loads, then the others all at once; ends with
    1 when one of them does not end with 0.
forked_sinks.py killed DATABASE RUN_DIR BYTES...
    One after the other, each killed when what it makes has as many bytes, then one to its end, with which
    this ends; prints what is wrong with the database after a kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from orchestrator.ledger.mlflow.sink import main
from orchestrator.ledger.mlflow.uri import sqlite_problem


def forked(run_dir: str) -> int:
    """The process's number."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = main([run_dir, "--finish-timeout-s=300"])
        finally:
            os._exit(code)
    return pid


def at_once(run_dirs: list[str]) -> int:
    ends = [os.waitpid(pid, 0)[1] for pid in [forked(run_dir) for run_dir in run_dirs]]
    return int(any(ends))


def killed(database: Path, run_dir: str, sizes_bytes: list[int]) -> int:
    for size_bytes in sizes_bytes:
        before = made(database)
        pid = forked(run_dir)
        while (
            max((size for path, size in made(database).items() if path not in before), default=-1)
            < size_bytes
        ):
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if problem := sqlite_problem(database):
            print(problem)
            return 1
    return at_once([run_dir])


def made(database: Path) -> dict[Path, int]:
    """Databases in its folder, under whatever name; a journal of SQLite's is none."""
    found = {}
    for path in database.parent.glob(f"*{database.name}*"):
        with contextlib.suppress(FileNotFoundError):
            if not path.name.endswith(("-journal", ".lock")):
                found[path] = path.stat().st_size
    return found


if __name__ == "__main__":
    if sys.argv[1] == "at-once":
        assert main([sys.argv[2]]) == 0
        sys.exit(at_once(sys.argv[3:]))
    sys.exit(killed(Path(sys.argv[2]), sys.argv[3], [int(word) for word in sys.argv[4:]]))
