"""Sinks that are forked from a process which has imported MLflow, so that many of them cost one import.

forked_sinks.py at-once RUN_DIR...              all at once; ends with 1 when one of them does not end with 0
forked_sinks.py killed DATABASE RUN_DIR S...    one after the other, each killed S seconds after its start; prints
                                                after each what is wrong with the database, an empty line if nothing
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from orchestrator.ledger.mlflow_sink import main
from orchestrator.ledger.tracking_check import sqlite_problem


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


def killed(database: Path, run_dir: str, delays_s: list[float]) -> int:
    for delay_s in delays_s:
        pid = forked(run_dir)
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(sqlite_problem(database) or "", flush=True)
    return at_once([run_dir])


if __name__ == "__main__":
    if sys.argv[1] == "at-once":
        assert main([sys.argv[2]]) == 0
        sys.exit(at_once(sys.argv[3:]))
    sys.exit(killed(Path(sys.argv[2]), sys.argv[3], [float(word) for word in sys.argv[4:]]))
