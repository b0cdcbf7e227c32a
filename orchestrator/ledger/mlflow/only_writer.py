"""One process at a time tells MLflow of a run, and in it one thread."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from orchestrator.files import open_no_link


@contextmanager
def only_writer(run_dir: Path) -> Iterator[IO[str]]:
    """Wait until nobody else writes this run: the sink of a driver that died may still be ending it. Others
    may as soon as what it gives is closed."""
    with open_no_link(run_dir / "mlflow_sink.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
