"""What a run's gauges say beside its bill."""

from __future__ import annotations

import pytest

from orchestrator.events import (
    AttemptStarted,
    Event,
    NodeQuarantined,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunStarted,
    StepDone,
    StragglerNamed,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.monitoring.figures import Figures
from orchestrator.ledger.monitoring.gauges import GAUGES, RUN_GAUGES, Series
from orchestrator.supervise.spending import Cap

BEGAN_UNIX_S = 1_700_000_000.0
STARTED = RunStarted("r", "j", "lab", "H100", 4, 3.6, steps=50)
GRANTED, RELEASED = ResourcesGranted(["n"], 4), ResourcesReleased()
ATTEMPT = AttemptStarted(1, "h", 1, 4)


class Told:
    """A run whose events come at seconds of its own clock."""

    def __init__(self, **more: object) -> None:
        self.ledger = Ledger()
        self.figures = Figures(self.ledger, **more)  # type: ignore[arg-type]
        self.values: dict[Series, float | None] = {}
        self._seq = 0

    def at(self, second: float, event: Event) -> Told:
        record = Record(self._seq, second, BEGAN_UNIX_S + second, event)
        self._seq += 1
        self.ledger.fold(record)
        self.figures.observe(record)
        self.values = dict(self.figures.values(record, self.ledger.bill()))
        return self

    def __getitem__(self, name: str) -> float | None:
        return self.values[Series(f"orchestrator_{name}")]


def test_every_gauge_of_a_run_has_a_value_with_its_labels() -> None:
    told = Told(caps={Cap.USD: 10.0}).at(0, STARTED)
    assert {series.name for series in told.values} == {gauge.name for gauge in RUN_GAUGES}
    assert all(len(series.more) == len(GAUGES[series.name].more) for series in told.values)


def test_since_when_no_step_is_done_begins_with_what_is_held() -> None:
    told = Told().at(0, STARTED)
    assert told["last_step_unix_s"] is None, "who holds nothing is not late"
    told.at(600, GRANTED).at(601, ATTEMPT)
    assert told["last_step_unix_s"] == BEGAN_UNIX_S + 600
    told.at(700, StepDone(1, 1, 2.5))
    assert (told["last_step_unix_s"], told["step_time_s"]) == (BEGAN_UNIX_S + 700, 2.5)
    told.at(800, AttemptStarted(2, "h", 1, 4))
    assert told["last_step_unix_s"] == BEGAN_UNIX_S + 700, "a restart is no step"
    told.at(900, RELEASED).at(5000, GRANTED)
    assert told["last_step_unix_s"] == BEGAN_UNIX_S + 5000, "what was waited for without nodes is not late"
    assert told["steps"] == 50


def test_a_step_that_is_done_again_counts_as_one() -> None:
    told = Told().at(0, STARTED).at(1, GRANTED).at(2, ATTEMPT).at(3, StepDone(1, 9, 1.0))
    told.at(50, StepDone(2, 5, 1.0))
    assert (told["step"], told["last_step_unix_s"]) == (9, BEGAN_UNIX_S + 50)


def test_what_an_hour_costs_is_that_of_what_is_held_now() -> None:
    told = Told().at(0, STARTED)
    assert told["cost_usd_per_hour"] == 0
    assert told.at(1, GRANTED)["cost_usd_per_hour"] == pytest.approx(4 * 3.6)
    assert told.at(2, RELEASED)["cost_usd_per_hour"] == 0


def test_stragglers_are_the_ranks_of_this_attempt() -> None:
    told = Told().at(0, STARTED).at(1, GRANTED).at(2, ATTEMPT)
    told.at(3, StragglerNamed(1, 2, "n", "GPU 2", 10, 1.4)).at(4, StragglerNamed(1, 2, "n", "GPU 2", 20, 1.5))
    assert told.at(5, StragglerNamed(1, 3, "n", "GPU 3", 20, 1.5))["stragglers"] == 2
    assert told.at(6, AttemptStarted(2, "h", 1, 4))["stragglers"] == 0


def test_nodes_that_an_earlier_driver_left_out_are_still_left_out() -> None:
    told = Told(avoided={"a"}).at(0, NodeQuarantined("b", "ECC")).at(1, NodeQuarantined("b", "ECC"))
    assert told["nodes_avoided"] == 2


def test_what_is_spent_of_each_cap_is_a_share_of_it() -> None:
    caps = {Cap.USD: 36.0, Cap.GPU_HOURS: 40.0, Cap.DEADLINE: 4.0}
    told = Told(caps=caps, began_unix_s=BEGAN_UNIX_S - 3600).at(0, STARTED).at(0, GRANTED).at(3600, ATTEMPT)
    shares = {
        series.more: value
        for series, value in told.values.items()
        if series.name == "orchestrator_budget_share"
    }
    assert shares == {
        ("budget.usd",): pytest.approx(4 * 3.6 / 36.0),
        ("budget.gpu_hours",): pytest.approx(0.1),
        ("budget.deadline",): pytest.approx(0.5),
    }
