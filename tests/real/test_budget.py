"""A run with a cap in dollars: it saves and stops before that is spent, and goes on with more."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.errors import EXIT_BUDGET_REACHED
from orchestrator.events import (
    AttemptStarted,
    BudgetReached,
    BudgetSettled,
    CheckpointSaved,
    Event,
    RunEnded,
    SnapshotCommitted,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from tests.faults.runs import COMMON, UNTRACKED, User

pytestmark = pytest.mark.real

# Two cores cost a dollar in two seconds: the bill has cents, and the test takes seconds.
PRICE = "cluster.price.usd_per_gpu_hour=900"
STEPS = 100_000
_E = TypeVar("_E", bound=Event)


def told(path: Path) -> list[Event]:
    return [record.event for record in replay(path / "journal.jsonl")]


def newest(events: list[Event], kind: type[_E]) -> _E:
    return [event for event in events if isinstance(event, kind)][-1]


def test_a_capped_run_saves_stops_and_goes_on_with_more(tmp_path: Path, kept: dict[str, str]) -> None:
    user = User(tmp_path)
    user.environment = kept
    words = [
        *COMMON, UNTRACKED, PRICE, "run_name=capped", f"job.steps={STEPS}", "job.args.checkpoint_every=5",
        "budget.usd=10", "budget.first_save_s=1", "budget.may_fall_short=true",
    ]  # fmt: skip
    first = user.command(*words)
    assert first.returncode == EXIT_BUDGET_REACHED, first.stdout + first.stderr
    folder = user.folder / "runs" / "capped"
    events = told(folder)
    ended, reached, settled = events[-1], newest(events, BudgetReached), newest(events, BudgetSettled)
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED
    bill = Ledger().fold_all(replay(folder / "journal.jsonl")).bill()
    assert settled.spent == pytest.approx(bill.cost_usd, abs=0.01)
    assert reached.spent <= settled.spent
    last_step = newest(events, StepDone).step
    assert newest(events, CheckpointSaved).step == last_step, "the job saved where it stopped"
    assert newest(events, SnapshotCommitted).step == last_step, "and that is on the disk"
    assert "resume" in first.stdout
    assert "budget.usd=" in first.stdout

    # so much more that the slowest machine comes to its end
    more = user.command("resume", "capped", "budget.usd=1000", f"job.steps={last_step + 7}")
    assert more.returncode == 0, more.stdout + more.stderr
    events = told(folder)
    assert newest(events, AttemptStarted).restore_step == last_step
    assert newest(events, StepDone).step == last_step + 7
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.FINISHED
    after = Ledger().fold_all(replay(folder / "journal.jsonl")).bill()
    assert after.cost_usd > bill.cost_usd
