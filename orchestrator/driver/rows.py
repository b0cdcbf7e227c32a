"""Runs side by side from their own directories, as MLflow would have them: for the table that a sweep ends
with, whether or not anything records them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from orchestrator import papers
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.events import RunEnded
from orchestrator.ledger.journal import replay
from orchestrator.ledger.mlflow.differences import with_differences
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.ledger.taken_to_loss import TakenToLoss, taken_to_loss


def rows_of(folders: Iterable[Path], to_loss: float | None = None) -> list[RunRow]:
    """A row for each, in their order, with what it took to come to the loss ``to_loss``; raises
    :class:`~orchestrator.errors.JournalError` for a damaged one."""
    return with_differences([row for folder in folders if (row := row_of(folder, to_loss)) is not None])


def row_of(folder: Path, to_loss: float | None = None) -> RunRow | None:
    """None for a run that has not begun."""
    folded = JournalFold(folder).catch_up()
    if (facts := folded.run) is None or folded.started is None:
        return None
    bill, settings = folded.ledger.bill(), _settings(folder)
    ended = folded.driver.status.value if isinstance(folded.driver, RunEnded) else "unknown"
    taken = TakenToLoss() if to_loss is None else taken_to_loss(replay(folder / "journal.jsonl"), to_loss)
    return RunRow(
        run_id="",
        name=facts.run,
        job=facts.job,
        status=ended,
        started_at=datetime.fromtimestamp(folded.started.time_unix_s, UTC).isoformat(),
        cluster=facts.cluster,
        gpu_type=facts.gpu_type,
        gpus=facts.gpus,
        unit=facts.unit,
        tokens=bill.tokens,
        tokens_per_s=bill.tokens_per_s,
        mfu=bill.mfu,
        gpu_hours=bill.gpu_hours,
        cost_usd=bill.cost_usd,
        cost_usd_per_million_tokens=bill.cost_usd_per_million_tokens,
        goodput=bill.goodput,
        restarts=bill.restarts,
        final_loss=bill.final_loss,
        model=settings.get("model.name"),
        settings=settings,
        usd_to_loss=taken.usd,
        gpu_hours_to_loss=taken.gpu_hours,
        hours_to_loss=taken.hours,
        steps_to_loss=taken.steps,
        best_loss=taken.best_loss,
    )


def _settings(folder: Path) -> dict[str, str]:
    """As MLflow is told of them."""
    try:
        params = papers.read_object(folder / "tracking.json").get("params")
    except (OSError, ValueError):
        return {}
    return {key: str(value) for key, value in params.items()} if isinstance(params, dict) else {}
