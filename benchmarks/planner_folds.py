"""The model's error on each table with constants fitted to the other tables only."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.planner_accuracy import Answer, Row, answers, table_of
from benchmarks.planner_fit import FREE, fit, with_values
from orchestrator.config.schema import PlannerConfig
from orchestrator.errors import ConfigError

PROCESSES = 3


@dataclass(frozen=True)
class Fold:
    """What constants that were fitted without `table` say of it."""

    table: str
    constants: PlannerConfig
    answers: list[Answer]


def leave_one_table_out(rows: Sequence[Row], base: PlannerConfig) -> list[Fold]:
    """A fold for each table; minutes on a few cores. `base` gives the constants that are not fitted.

    Raises :class:`ConfigError` where there is but one table.
    """
    tables = list(dict.fromkeys(table_of(row) for row in rows))
    if len(tables) < 2:
        raise ConfigError(
            f"--leave-one-table-out: the rows are of {len(tables)} table; at least 2 are needed"
        )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes are the parallelism
    plain = [dict(row) for row in rows]
    pool = concurrent.futures.ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"))
    with pool:
        tasks = [pool.submit(fold, table, plain, base) for table in tables]
        for count, task in enumerate(concurrent.futures.as_completed(tasks), 1):
            print(f"{count}/{len(tables)}: fitted without {task.result().table}", file=sys.stderr, flush=True)
        return [task.result() for task in tasks]


def fold(table: str, rows: Sequence[Row], base: PlannerConfig) -> Fold:
    """Fits twice: what fills a row's blanks depends on the constants, so the second fit is to rows that the
    first one filled in. Neither begins with constants that have seen `table`."""
    others = [row for row in rows if table_of(row) != table]
    constants = with_values(base, {name: start for name, (start, _) in FREE.items()})
    for _ in range(2):
        answered, _ = answers(others, constants)
        constants = fit([one.case for one in answered if not one.out_of_memory], constants)
    held_out, _ = answers([row for row in rows if table_of(row) == table], constants)
    return Fold(table, constants, held_out)
