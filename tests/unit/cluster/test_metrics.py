from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster.gauges import Gauges, QueueGauges
from orchestrator.config.schema import Config, MetricsConfig
from orchestrator.driver import wiring
from orchestrator.events import AttemptStarted, RankOutput, Record, ResourcesGranted, RunStarted, StepDone
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.monitoring.figures import Figures
from orchestrator.ledger.monitoring.gauges import QUEUE_GAUGES, RUN_GAUGES, Series
from orchestrator.ledger.run_directory import number_of_run
from tests.support.receivers import until


class FakeGauge:
    """Has the signature of ``ray.util.metrics.Gauge``; refuses what that refuses."""

    made: dict[str, FakeGauge]

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        assert description
        self.tag_keys = tag_keys or ()
        self.values: list[float] = []
        self.tagged: dict[tuple[str, ...], float] = {}  # the newest by what it is labelled with
        FakeGauge.made[name] = self

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        assert isinstance(value, int | float)
        assert math.isfinite(value)
        assert tags is not None
        assert set(tags) == set(self.tag_keys)
        self.values.append(value)
        self.tagged[tuple(tags.values())] = value


@pytest.fixture
def made() -> dict[str, FakeGauge]:
    FakeGauge.made = {}
    return FakeGauge.made


def gauges_of(ledger: Ledger) -> Gauges:
    return Gauges("r", "lab", Figures(ledger), FakeGauge)


def observe(gauges: Any, ledger: Ledger, losses: list[float | None]) -> None:
    run = RunStarted("r", "j", "lab", "H100", 4, 3.6, tokens_per_step=1000)
    steps = [StepDone(1, number, 1.0, loss) for number, loss in enumerate(losses, 1)]
    events = [run, ResourcesGranted(["n"], 4), AttemptStarted(1, "h", 1, 4), *steps]
    for seq, event in enumerate(events):
        record = Record(seq, float(seq), 0.0, event)
        ledger.fold(record)
        gauges.observe(record, ledger.bill())


def test_gauges_follow_the_bill(made: dict[str, FakeGauge]) -> None:
    observe(gauges_of(ledger := Ledger()), ledger, [3.0, 2.0])
    assert list(made) == [gauge.name for gauge in RUN_GAUGES]
    assert made["orchestrator_step"].values == [0, 1, 2]
    assert made["orchestrator_loss"].values == [3.0, 2.0]
    assert made["orchestrator_tokens_per_s"].values[-1] == pytest.approx(1000)
    assert made["orchestrator_cost_usd"].values[-1] == pytest.approx(4 * 3 * 0.001)
    assert made["orchestrator_restarts"].values == [0], "what has not changed is not set again"
    assert made["orchestrator_cost_usd_per_hour"].values == [0.0, pytest.approx(4 * 3.6)]
    in_bucket = made["orchestrator_in_bucket"].tagged
    assert {tags[2] for tags, value in in_bucket.items() if value} == {Bucket.TRAINING}
    assert {tags[2] for tags in in_bucket} == set(Bucket), "each of them, so that what is gained can be asked"
    assert all(tags[:2] == ("r", "lab") for tags in in_bucket)
    bill = ledger.bill()
    assert made["orchestrator_bucket_s"].tagged == {("r", "lab", each): bill.seconds[each] for each in Bucket}


def test_what_is_not_on_record_sets_no_gauge(made: dict[str, FakeGauge]) -> None:
    gauges = gauges_of(ledger := Ledger())
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
    gauges = gauges_of(ledger := Ledger())
    with gauges.kept(again_s=0.005):
        observe(gauges, ledger, [3.0, 2.0])
        restarts, losses = made["orchestrator_restarts"], made["orchestrator_loss"]
        until(lambda: len(restarts.values) > 3 and losses.values[-3:] == [2.0] * 3)
    assert set(restarts.values) == {0.0}
    assert losses.values == sorted(losses.values, reverse=True), "no older value after a newer one"
    seen = len(restarts.values)
    time.sleep(0.05)
    assert len(restarts.values) == seen, "nothing is set once the run is over"


def test_unknown_values_are_not_set(made: dict[str, FakeGauge]) -> None:
    observe(gauges_of(ledger := Ledger()), ledger, [None, float("nan"), float("inf")])
    assert made["orchestrator_loss"].values == []
    assert made["orchestrator_mfu"].values == []


def test_rays_own_gauge_takes_these_arguments() -> None:
    metrics = pytest.importorskip("ray.util.metrics")
    for gauges in (Gauges("r", "lab", Figures(Ledger())), QueueGauges()):
        assert all(isinstance(gauge, metrics.Gauge) for gauge in gauges._set._gauges.values())


def test_the_queue_s_gauges_are_set_with_their_own_labels(made: dict[str, FakeGauge]) -> None:
    gauges = QueueGauges(FakeGauge)
    gauges.show({Series("orchestrator_queue_gpus", ("nlp", "h100")): 8.0})
    assert list(made) == [gauge.name for gauge in QUEUE_GAUGES]
    assert made["orchestrator_queue_gpus"].tagged == {("nlp", "h100"): 8.0}


def test_a_line_of_another_version_s_queue_is_left_out(made: dict[str, FakeGauge]) -> None:
    """The daemon may be of another version than the process that shows what it says."""
    unknown = {
        Series("orchestrator_queue_gpus", ("nlp",)): 1.0,
        Series("orchestrator_queue_of_later"): 1.0,
        Series("orchestrator_step"): 1.0,
    }
    QueueGauges(FakeGauge).show(unknown)
    assert not any(gauge.values for gauge in made.values())


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
