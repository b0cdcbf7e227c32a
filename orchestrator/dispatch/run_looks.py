"""What runs' journals say, read on from where the last look ended."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from orchestrator.dispatch.facts import Tally
from orchestrator.dispatch.seen import RunSeen
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.errors import JournalError
from orchestrator.events import RunEnded, Status
from orchestrator.fleet.jobs import StopPrice
from orchestrator.ledger.stop_times import StopTimes


class RunLooks:
    """One fold for each run that is looked at."""

    def __init__(self, run_root: Path) -> None:
        self._run_root = run_root
        self._folds: dict[str, JournalFold] = {}

    def look(self, run_name: str, since: float = 0.0, after_bytes: int | None = None) -> RunSeen:
        """Of a run that has not begun all is zero; a journal that is damaged is told as the reason. What an
        earlier driver was told and said is not told: it stands in the first ``after_bytes``, which the clock
        does not change, or where nobody knows these it was before ``since``."""
        if run_name not in self._folds:
            if not (self._run_root / run_name / "journal.jsonl").exists():
                return RunSeen()
            self._folds[run_name] = JournalFold(self._run_root / run_name)
        fold = self._folds[run_name]
        try:
            folded, mark = fold.catch_up(), fold.mark
            if after_bytes is not None:
                return _seen(folded, mark is not None and mark.offset > after_bytes)
            return _seen(folded, folded.last is not None and folded.last.time_unix_s >= since)
        except JournalError as error:
            self._folds.pop(run_name)
            return RunSeen(_tally(fold.folded), reason=str(error))

    def keep(self, run_names: Collection[str]) -> None:
        """None but these are looked at any more: what was read of others is forgotten."""
        for name in [name for name in self._folds if name not in run_names]:
            self._folds.pop(name)

    def bytes_now(self, run_name: str) -> int:
        """How long its journal is; 0 of a run that has not begun."""
        with contextlib.suppress(OSError):
            return (self._run_root / run_name / "journal.jsonl").stat().st_size
        return 0


def _seen(folded: Folded, is_new: bool) -> RunSeen:
    ended = folded.driver if isinstance(folded.driver, RunEnded) else None
    return RunSeen(
        _tally(folded),
        finished=ended is not None and ended.status is Status.FINISHED,
        reason=ended.reason if ended is not None and is_new else "",
        stopped_by=folded.stopped_by if is_new else "",
        nodes_left=ended is not None and is_new,
    )


def _tally(folded: Folded) -> Tally:
    history, bill = folded.resume_state.history, folded.ledger.bill()
    own = history.own_save
    saved = max([*history.committed, *([own.step] if own is not None else [])], default=None)
    return Tally(
        step=history.highest_step,
        saved_step=saved or 0,
        saved=saved is not None,
        steps=folded.run.steps if folded.run is not None else None,
        step_s=_figures(folded.ledger.newest_step_time_s),
        gpu_s=bill.gpu_hours * 3600.0,
        usd=bill.cost_usd,
        price=_price(folded.stop_times),
        load_s=folded.stop_times.load_s,
        memory_load_s=folded.stop_times.memory_load_s,
    )


def _figures(step_s: float | None) -> float | None:
    """The median moves a little with each step. What it says to four figures is as good, and stays what it
    is: so it is on record once."""
    return None if step_s is None else float(f"{step_s:.4g}")


def _price(times: StopTimes) -> StopPrice | None:
    """What has not happened yet is guessed as for any job."""
    measured = {
        name: seconds
        for name in ("stop_s", "write_s", "start_s", "load_s", "memory_load_s")
        if (seconds := getattr(times, name)) is not None
    }
    return StopPrice(**measured) if measured else None
