"""What runs' journals say, read on from where the last look ended."""

from __future__ import annotations

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

    def look(self, run_name: str, since: float = 0.0) -> RunSeen:
        """Of a run that has not begun all is zero; a journal that is damaged is told as the reason. What a
        driver before ``since`` was told and said is not told."""
        if run_name not in self._folds:
            if not (self._run_root / run_name / "journal.jsonl").exists():
                return RunSeen()
            self._folds[run_name] = JournalFold(self._run_root / run_name)
        fold = self._folds[run_name]
        try:
            return _seen(fold.catch_up(), since)
        except JournalError as error:
            self._folds.pop(run_name)
            return RunSeen(_tally(fold.folded), reason=str(error))

    def forget(self, run_name: str) -> None:
        """It is not looked at any more."""
        self._folds.pop(run_name, None)


def _seen(folded: Folded, since: float) -> RunSeen:
    ended = folded.driver if isinstance(folded.driver, RunEnded) else None
    is_new = folded.last is not None and folded.last.time_unix_s >= since
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
        step_s=folded.ledger.predicted_actual().step_time_s.actual,
        gpu_s=bill.gpu_hours * 3600.0,
        usd=bill.cost_usd,
        price=_price(folded.stop_times),
    )


def _price(times: StopTimes) -> StopPrice | None:
    """What has not happened yet is guessed as for any job."""
    measured = {
        name: seconds
        for name in ("stop_s", "write_s", "start_s", "load_s")
        if (seconds := getattr(times, name)) is not None
    }
    return StopPrice(**measured) if measured else None
