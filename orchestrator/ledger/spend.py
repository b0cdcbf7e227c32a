"""What others may know of a run: who spends how much, in ``RUN_ROOT/spend/RUN.json``, readable by the group.

A run's own directory is its owner's alone. Who shares the budget reads this instead, without a server: a
small file that is written whole, at each turn of the run and every half a minute. The group is that of the
run root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from orchestrator.config.schema import Config
from orchestrator.events import Record, ResourcesGranted, ResourcesReleased, RunEnded, RunResumed, RunStarted
from orchestrator.files import atomic_write
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.money import Held
from orchestrator.users import user_name

FORMAT = 1
EVERY_S = 30.0
FOLDER = "spend"
# Whose state is told at once; between them the figures may be so many seconds old.
_TURNS = (RunStarted, RunResumed, ResourcesGranted, ResourcesReleased, RunEnded)


class Spend(TypedDict):
    """What others are told of one run: the content of ``spend/RUN.json``."""

    format: int  # of this file; it grows with a change that breaks readers
    run: str  # name of the run
    owner: str  # who pays: `owner`, else the user who started the run
    project: str | None  # and for what; null where `project` is not set
    cost_center: str | None  # whose budget it is; null where `cost_center` is not set
    cluster: str  # where it runs
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    every_s: float  # how old the figures may be while the run goes on
    # `waiting`, `running`, or how it ended: `finished`, `failed`, `interrupted` or `budget_reached`
    state: str
    gpus_held: int  # at this moment
    gpu_hours: float  # held so far, in the unit
    cost_usd: float  # spent so far
    # the same by what it was spent on: `training`, `checkpoint`, `redone`, `recovering`, …
    bucket_usd: dict[str, float]
    held: list[Held]  # the same by the month in which it was held, and by what it was spent on
    updated_unix_s: float  # when this was written


class SpendNote:
    """One run's. ``notice`` is told once where it cannot be written: nobody's training waits for it."""

    def __init__(
        self, config: Config, run: str, unit: str, ledger: Ledger, notice: Callable[[str], None]
    ) -> None:
        self.path = Path(config.run_root).resolve() / FOLDER / f"{run}.json"
        self._config, self._run, self._unit, self._ledger = config, run, unit, ledger
        self._owner = config.owner or user_name()
        self._notice: Callable[[str], None] | None = notice
        self._state = "waiting"
        self._next_s = 0.0

    def observe(self, record: Record, bill: Bill) -> None:
        """Write where the run has taken a turn, or the figures have grown old."""
        event = record.event
        if isinstance(event, ResourcesGranted):
            self._state = "running"
        elif isinstance(event, RunEnded):
            self._state = str(event.status)
        elif isinstance(event, ResourcesReleased | RunResumed):
            self._state = "waiting"
        if isinstance(event, _TURNS) or record.elapsed_s >= self._next_s:
            self._next_s = record.elapsed_s + EVERY_S
            self._write(record, bill)

    def _write(self, record: Record, bill: Bill) -> None:
        note: Spend = {
            "format": FORMAT,
            "run": self._run,
            "owner": self._owner,
            "project": self._config.project,
            "cost_center": self._config.cost_center,
            "cluster": self._config.cluster.name,
            "unit": self._unit,
            "every_s": EVERY_S,
            "state": self._state,
            "gpus_held": bill.gpus_held,
            "gpu_hours": bill.gpu_hours,
            "cost_usd": bill.cost_usd,
            "bucket_usd": {bucket.value: cost for bucket, cost in bill.bucket_usd.items()},
            "held": self._ledger.by_month(record.elapsed_s),
            "updated_unix_s": record.time_unix_s,
        }
        try:
            folder = spend_folder(self.path.parent)
            atomic_write(
                self.path, json.dumps(note, indent=1, default=dataclasses.asdict) + "\n", 0o640, durable=False
            )
            with contextlib.suppress(OSError):  # not of that group: then it is for ours
                os.chown(self.path, -1, folder.st_gid)
        except OSError as error:
            if self._notice is not None:
                self._notice(
                    f"what this run spends cannot be told to others ({self.path}: {error.strerror}); it"
                    " goes on"
                )
            self._notice = None


def spend_folder(path: Path, shared: bool = False) -> os.stat_result:
    """Made like the run root: its group, and where others of the group make runs, they make notes too, each
    his own; in one that is ``shared`` they replace each other's."""
    with contextlib.suppress(FileExistsError):
        root = path.parent.stat()
        path.mkdir(mode=0o700)
        with contextlib.suppress(OSError):
            os.chown(path, -1, root.st_gid)
        own = 0 if shared else stat.S_ISVTX
        path.chmod(own | (root.st_mode & (stat.S_ISGID | stat.S_IWGRP)) | 0o750)
    return path.stat()
