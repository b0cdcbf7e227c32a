from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster.gauges import DESCRIPTIONS, Gauges
from orchestrator.config.schema import Config, MetricsConfig
from orchestrator.driver import wiring
from orchestrator.events import AttemptStarted, RankOutput, Record, ResourcesGranted, RunStarted, StepDone
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run_directory import number_of_run
from tests.support.receivers import until


class FakeGauge:
    """Has the signature of ``ray.util.metrics.Gauge``; refuses what that refuses."""

    made: dict[str, FakeGauge]

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        assert description
        self.tag_keys = tag_keys or ()
        self.values: list[float] = []
        FakeGauge.made[name] = self

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        assert isinstance(value, int | float)
        assert math.isfinite(value)
        assert tags == {"run": "r", "cluster": "lab"}
        assert set(tags) == set(self.tag_keys)
        self.values.append(value)


@pytest.fixture
def made() -> dict[str, FakeGauge]:
    FakeGauge.made = {}
    return FakeGauge.made


def observe(gauges: Any, losses: list[float | None]) -> None:
    ledger = Ledger()
    run = RunStarted("r", "j", "lab", "H100", 4, 3.6, tokens_per_step=1000)
    steps = [StepDone(1, number, 1.0, loss) for number, loss in enumerate(losses, 1)]
    events = [run, ResourcesGranted(["n"], 4), AttemptStarted(1, "h", 1, 4), *steps]
    for seq, event in enumerate(events):
        record = Record(seq, float(seq), 0.0, event)
        ledger.fold(record)
        gauges.observe(record, ledger.bill())


def test_gauges_follow_the_bill(made: dict[str, FakeGauge]) -> None:
    observe(Gauges("r", "lab", FakeGauge), [3.0, 2.0])
    assert set(made) == set(DESCRIPTIONS)
    assert made["orchestrator_step"].values == [0, 1, 2]
    assert made["orchestrator_loss"].values == [3.0, 2.0]
    assert made["orchestrator_tokens_per_s"].values[-1] == pytest.approx(1000)
    assert made["orchestrator_cost_usd"].values[-1] == pytest.approx(4 * 3 * 0.001)
    assert made["orchestrator_restarts"].values == [0], "what has not changed is not set again"


def test_what_is_not_on_record_sets_no_gauge(made: dict[str, FakeGauge]) -> None:
    gauges, ledger = Gauges("r", "lab", FakeGauge), Ledger()
    run = RunStarted("r", "j", "lab", "H100", 4, 3.6)
    for seq, event in enumerate([run, ResourcesGranted(["n"], 4), AttemptStarted(1, "h", 1, 4)]):
        ledger.fold(record := Record(seq, 0.0, 0.0, event))
        gauges.observe(record, ledger.bill())
    line = Record(3, 60.0, 60.0, RankOutput(1, 0, "a line of the script's own"))
    gauges.observe(line, ledger.bill(line.elapsed_s))
    assert made["orchestrator_cost_usd"].values == [0.0], "who folds the journal finds every value of a gauge"
    ledger.fold(record := Record(3, 61.0, 61.0, StepDone(1, 1, 1.0)))
    gauges.observe(record, ledger.bill())
    assert made["orchestrator_cost_usd"].values == [0.0, pytest.approx(4 * 61 * 0.001)]


def test_what_stays_the_same_is_set_again_while_the_run_goes_on(made: dict[str, FakeGauge]) -> None:
    """Ray forgets what is not: a run's restarts, and everything during a long step."""
    gauges = Gauges("r", "lab", FakeGauge)
    with gauges.kept(again_s=0.005):
        observe(gauges, [3.0, 2.0])
        restarts, losses = made["orchestrator_restarts"], made["orchestrator_loss"]
        until(lambda: len(restarts.values) > 3 and losses.values[-3:] == [2.0] * 3)
    assert set(restarts.values) == {0.0}
    assert losses.values == sorted(losses.values, reverse=True), "no older value after a newer one"
    seen = len(restarts.values)
    time.sleep(0.05)
    assert len(restarts.values) == seen, "nothing is set once the run is over"


def test_unknown_values_are_not_set(made: dict[str, FakeGauge]) -> None:
    observe(Gauges("r", "lab", FakeGauge), [None, float("nan"), float("inf")])
    assert made["orchestrator_loss"].values == []
    assert made["orchestrator_mfu"].values == []


def test_rays_own_gauge_takes_these_arguments() -> None:
    metrics = pytest.importorskip("ray.util.metrics")
    gauges = Gauges("r", "lab")
    assert all(isinstance(gauge, metrics.Gauge) for gauge in gauges._gauges.values())


@pytest.mark.parametrize(
    ("address", "names", "labels"),
    [
        ("127.0.0.1:6379", False, ("secret-merger-7", "lab")),
        ("10.0.0.1:6379", True, ("secret-merger-7", "lab")),
        ("10.0.0.1:6379", False, None),
    ],
)
def test_a_run_of_several_machines_has_a_number_there_unless_names_are_asked_for(
    address: str, names: bool, labels: tuple[str, str] | None, tmp_path: Path
) -> None:
    config = Config(metrics=MetricsConfig(names))
    told = wiring.labels(config, SimpleNamespace(cluster="lab"), "secret-merger-7", tmp_path, address)  # type: ignore[arg-type]
    number = number_of_run(tmp_path)
    assert told == (labels or (number, ""))
    assert number == number_of_run(tmp_path), "the same for every driver of the run"
    assert len(number) == 12
    assert (tmp_path / "number").stat().st_mode & 0o777 == 0o600
