"""Runs that share a budget: what one has spent the other has not, and none begins without any."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.schema import Config
from orchestrator.driver.budget import budget_remarks
from orchestrator.driver.preflight import plan_of
from orchestrator.driver.shared_budgets import SharedBudgets, shared_budgets
from orchestrator.errors import ConfigError
from orchestrator.events import BudgetSettled, RunEnded, SharedBudgetWarned, Status
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.pools import Amounts, Claims, Pool
from orchestrator.supervise.spending import Cap, Caps
from tests.support.capped import Capped
from tests.unit.config.test_conf import composed
from tests.unit.supervise.test_budget import only, varying

TEAM_NAME = "cost_center=42"
TEAM = Pool("cost_center", "42", "month", usd=14.0)


def test_runs_of_one_team_stop_before_together_they_have_spent_its_month(tmp_path: Path) -> None:
    spent, said = 0.0, list[str]()
    for number in range(3):
        run = Capped(Caps(), varying(number, shortest_s=5.0))
        clock = run.group.clock
        claims = Claims(tmp_path, f"run-{number}", [TEAM], lambda clock=clock: 1.796e9 + clock.now_s())
        shared = SharedBudgets(claims, run.ledger, Amounts(5.6, 2.2), said.append, str(TEAM), clock.now_s)
        run.shared, run.shared_warnings = shared.limits, shared.warnings
        if number < 2:
            run.group.steps = 300  # ten minutes and more
        ended = run.go()
        shared.give_back()
        spent += run.ledger.bill().cost_usd
        assert isinstance(ended, RunEnded)
        assert ended.status is (Status.FINISHED if number < 2 else Status.BUDGET_REACHED)
    assert 12.0 < spent <= 14.0
    settled = only(run.told, BudgetSettled)
    assert isinstance(settled, BudgetSettled)
    assert settled.key == Cap.SHARED_USD
    (warned,) = [event for event in run.told if isinstance(event, SharedBudgetWarned)]
    assert (warned.budget, warned.month, warned.key, warned.cap) == (
        TEAM_NAME,
        "2026-11",
        Cap.SHARED_USD,
        14.0,
    )
    assert warned.spent >= 0.8 * 14.0, "by all runs together: this one has spent less than a third of it"
    assert run.ledger.bill().cost_usd < 7.0
    assert said == [
        "of the shared budget of cost_center=42 $5.44 is neither spent nor claimed by other runs, less than the"
        " $5.60 that the next quarter of an hour and a save may take; this run saves and stops before what it"
        " has claimed is spent"
    ]


def of_team(tmp_path: Path, *words: str) -> Config:
    return composed("job=tiny_gpt", "gpu=cpu", f"run_root={tmp_path}", "cost_center='42'", *words)


def test_a_run_without_a_shared_budget_has_none(tmp_path: Path) -> None:
    config = of_team(tmp_path)
    plan = plan_of(config, observed=False)
    assert shared_budgets(config, "r", plan, Ledger(), print) is None
    (tmp_path / "budgets.yaml").write_text("- {cost_center: '43', usd: 5}\n")
    assert shared_budgets(config, "r", plan, Ledger(), print) is None
    config.budgets = str(tmp_path / "elsewhere.yaml")
    with pytest.raises(ConfigError, match=r"budgets=.*elsewhere.yaml: No such file"):
        shared_budgets(config, "r", plan, Ledger(), print)


def test_a_run_that_finds_nothing_left_is_refused_before_it_begins(tmp_path: Path) -> None:
    config = of_team(tmp_path)
    plan = plan_of(config, observed=False)
    (tmp_path / "budgets.yaml").write_text("- {cost_center: '42', usd: 0.03}\n")
    first = shared_budgets(config, "one", plan, Ledger(), print)
    assert first is not None
    with pytest.raises(
        ConfigError, match=r"\$0.00280 is neither spent nor claimed by other runs, and saving"
    ):
        shared_budgets(config, "two", plan, Ledger(), print)
    with pytest.raises(
        ConfigError, match=r"\$0.00280 is neither spent nor claimed by other runs, and saving"
    ):
        budget_remarks(config, plan)
    first.give_back()
    before = sorted((tmp_path / "spend" / "claims").iterdir())
    assert budget_remarks(config, plan) == []
    assert sorted((tmp_path / "spend" / "claims").iterdir()) == before, "a plan claims nothing"
    assert shared_budgets(config, "two", plan, Ledger(), print) is not None


def test_a_plan_says_that_a_shared_budget_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text("- {cost_center: '42', usd: 500}\n")
    words = ("job=llama3_8b", "cluster=dgx_h100", f"run_root={tmp_path}", "cost_center='42'")
    config = composed(*words)
    (remark,) = budget_remarks(config, plan_of(config, observed=False))
    assert "of the shared budget of cost_center=42 for 20" in remark
    assert "$500.00 of $500.00 is neither spent nor claimed, and the run is planned to cost $" in remark
    assert not (tmp_path / "spend").exists()
    (tmp_path / "budgets.yaml").write_text("- {cost_center: '42', usd: 1e9}\n")
    assert budget_remarks(config, plan_of(config, observed=False)) == []
