"""A run's budget before it begins: what no cap can be, and what its plan says that it will not do."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.checkpoint_events import CheckpointSaved
from orchestrator.config import ranges
from orchestrator.config.budget_schema import BudgetConfig
from orchestrator.config.schema import Config
from orchestrator.driver.budget import (
    budget_remarks,
    caps_of,
    check_against_plan,
    check_budget,
    check_resumed,
    deadline_unix_s,
)
from orchestrator.driver.folded import Folded
from orchestrator.driver.preflight import plan_of
from orchestrator.errors import ConfigError
from orchestrator.events import (
    BudgetSettled,
    Event,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    SnapshotCommitted,
    Status,
)
from orchestrator.plan.plan import Plan
from orchestrator.supervise.budget_words import words_to_go_on
from orchestrator.supervise.spending import Cap
from tests.unit.config.test_conf import composed

NOW_S = 1_796_000_000.0  # 2026-11-29


def checked(budget: BudgetConfig) -> None:
    ranges.check(budget, "budget.")
    check_budget(budget, NOW_S)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (BudgetConfig(usd=0), "budget.usd=0: must be greater than 0"),
        (BudgetConfig(usd=float("nan")), "budget.usd=nan: is not a number"),
        (BudgetConfig(gpu_hours=float("inf")), "budget.gpu_hours=inf: must be finite, at most 1e+12"),
        (BudgetConfig(first_save_s=-1), "budget.first_save_s=-1: must be 0 or more"),
        (BudgetConfig(deadline="soon"), "budget.deadline=soon: is neither a date nor hours"),
        (BudgetConfig(deadline="-3"), "budget.deadline=-3: is neither a date nor hours above 0"),
        (BudgetConfig(deadline="inf"), "budget.deadline=inf: is neither a date nor hours"),
        (BudgetConfig(deadline="1e300"), "budget.deadline=1e300: is neither a date nor hours"),
        (BudgetConfig(deadline="2020-01-01"), "budget.deadline=2020-01-01: is over"),
    ],
)
def test_what_no_cap_can_be_is_refused_by_its_key(budget: BudgetConfig, said: str) -> None:
    with pytest.raises(ConfigError, match="write") as refused:
        checked(budget)
    assert str(refused.value).startswith(said)


def test_a_deadline_is_a_date_or_hours_since_the_run_began() -> None:
    assert deadline_unix_s("36", NOW_S) == NOW_S + 36 * 3600
    assert deadline_unix_s("1970-01-02T01:00+01:00", 0.0) == 86400.0
    local = datetime(2026, 12, 31, 18).timestamp()
    assert deadline_unix_s("2026-12-31T18:00", NOW_S) == local
    check_budget(BudgetConfig(usd=1e-6, gpu_hours=1, deadline="0.5", first_save_s=0), NOW_S)


def a_month(tmp_path: Path, *words: str) -> tuple[Config, Plan]:
    """Llama 3 8B for 100,000 steps on eight nodes: a plan with a price."""
    config = composed("job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=8", f"run_root={tmp_path}", *words)
    return config, plan_of(config, observed=False)


def looked_at(config: Config, plan: Plan) -> list[str]:
    warnings: list[str] = []
    check_against_plan(config, plan, caps_of(config, plan, NOW_S), warnings.append)
    return warnings


def test_a_cap_below_what_the_plan_says_is_refused_with_what_would_do(tmp_path: Path) -> None:
    config, plan = a_month(tmp_path)
    cost = plan.prediction.costs[0]
    config.budget.usd = round(cost.low_usd / 2, 2)
    with pytest.raises(ConfigError, match="too little, by its plan the run takes") as refused:
        looked_at(config, plan)
    said = str(refused.value)
    enough = float(said.partition("; budget.usd=")[2].split()[0])
    assert cost.high_usd <= enough <= cost.high_usd * 1.1
    assert plan.prediction.steps is not None
    fitting = int(said.partition("job.steps=")[2].split()[0])
    assert 0.2 * plan.prediction.steps < fitting < 0.5 * plan.prediction.steps
    config.budget.may_fall_short = True
    assert looked_at(config, plan)[0].startswith(f"budget.usd={config.budget.usd:g}: will not do")
    config.budget.usd = enough
    assert looked_at(config, plan) == []


def test_a_cap_within_the_range_of_the_plan_is_warned_of(tmp_path: Path) -> None:
    config, plan = a_month(tmp_path)
    run = plan.prediction.forecast
    assert run is not None
    config.budget.gpu_hours = run.gpu_hours
    config.budget.deadline = f"{run.wall_hours:.3f}"
    assert [line.partition("=")[0] for line in looked_at(config, plan)] == [
        "budget.gpu_hours",
        "budget.deadline",
    ]


def test_a_run_without_a_prediction_is_warned_and_a_cap_below_a_save_is_refused(tmp_path: Path) -> None:
    config = composed("job=tiny_gpt", "gpu=cpu", f"run_root={tmp_path}", "budget.usd=5")
    plan = plan_of(config, observed=False)
    assert "whether that will do is not known" in looked_at(config, plan)[0]
    config.budget.usd = 1e-5
    with pytest.raises(ConfigError, match=r"budget.usd=1e-05 is no more than the .* at 120 s") as refused:
        looked_at(config, plan)
    config.budget.usd = float(str(refused.value).partition("write budget.usd=")[2].split()[0])
    looked_at(config, plan)


def test_a_plan_that_is_only_looked_at_is_refused_for_what_its_run_would_be(tmp_path: Path) -> None:
    config, plan = a_month(tmp_path, "budget.usd=20000")
    with pytest.raises(ConfigError, match=r"budget\.usd=20000: too little"):
        budget_remarks(config, plan)
    config.budget.may_fall_short = True
    assert budget_remarks(config, plan)[0].startswith("budget.usd=20000: will not do")
    config.budget.usd = None
    assert budget_remarks(config, plan) == []
    config.budget.deadline = "yesterday"
    with pytest.raises(ConfigError, match="neither a date nor hours"):
        budget_remarks(config, plan)


def of(*events: Event) -> Folded:
    folded = Folded()
    for seq, event in enumerate(events):
        folded.fold(Record(seq, 100.0 * seq, NOW_S + 100.0 * seq, event))
    return folded


def test_a_run_is_not_taken_up_with_a_cap_that_it_has_used_up(tmp_path: Path) -> None:
    config = composed("job=tiny_gpt", "gpu=cpu", f"run_root={tmp_path}", "budget.usd=1.0")
    plan = plan_of(config, observed=False)
    spent = of(
        RunStarted("r", "tiny", "local", "CPU core", 2, 18.0),  # a cent a second
        ResourcesGranted(["n"], 2),
        CheckpointSaved(1, 1, "step-1", "/c", 0.5, True),
        SnapshotCommitted(1, 1, "step-1", "/c", 1, 0.5),
        ResourcesReleased(),
        RunEnded(Status.BUDGET_REACHED, ""),
    )
    caps = caps_of(config, plan, NOW_S)
    with pytest.raises(ConfigError, match=r"budget.usd=1: of that the run has taken \$3.00 already"):
        check_resumed(config, plan, caps, spent)
    config.budget.usd = 3.5
    check_resumed(config, plan, caps_of(config, plan, NOW_S), spent)


@pytest.mark.parametrize(
    ("settled", "words"),
    [
        (BudgetSettled("budget.usd", 5.0, 4.9, 3.0, 2.0, 4.0), "budget.usd=9.2"),
        (BudgetSettled("budget.usd", 5.0, 4.9), "budget.usd=10"),
        (BudgetSettled("budget.gpu_hours", 100.0, 104.0, 0.0, 0.0, 0.0), "budget.gpu_hours=110"),
    ],
)
def test_what_to_type_is_enough_to_finish(settled: BudgetSettled, words: str) -> None:
    assert words_to_go_on(settled) == words
    assert Cap(settled.key) in words
