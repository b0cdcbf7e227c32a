"""Prices by the clock and by the date: what holds when, what a stretch costs, and a plan that a run keeps."""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.schema import Config, PriceConfig
from orchestrator.driver.first_event import run_started
from orchestrator.errors import ConfigError
from orchestrator.events import (
    AttemptStarted,
    Event,
    PricesAnnounced,
    Record,
    ResourcesGranted,
    RunEnded,
    Status,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.forecast.price import offers, price_schedule, price_usd_per_gpu_hour
from orchestrator.plan.forecast.price_schedule import Schedule, begins_unix_s, schedule_of
from orchestrator.plan.plan import Plan, make_plan
from tests.unit.config.test_conf import composed

NOON_UNIX_S = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
CLOCKS = st.times().map(lambda clock: clock.strftime("%H:%MZ"))
USD = st.floats(0, 100)
SCHEDULES = st.one_of(
    st.dictionaries(CLOCKS, USD, min_size=1, max_size=4),
    st.dictionaries(
        st.integers(-20, 60).map(
            lambda hours: datetime.fromtimestamp(NOON_UNIX_S + 3600 * hours, UTC).isoformat()
        ),
        USD, min_size=1, max_size=5,
    ),
)  # fmt: skip


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def price_of(prices: dict[str, float], **changes: object) -> PriceConfig:
    own = {"usd_per_gpu_hour": 2.0, "source": "s", "as_of": "2026-01", "schedule": prices, **changes}
    return PriceConfig(**own)  # type: ignore[arg-type]


def schedule(prices: dict[str, float]) -> Schedule:
    found = schedule_of(price_of(prices), 2.0)
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(SCHEDULES, st.floats(0.1, 40))
def test_the_mean_is_that_of_every_minute(prices: dict[str, float], hours: float) -> None:
    """Summed in steps none of which a price changes within, by looking up each."""
    found = schedule(prices)
    end_s = NOON_UNIX_S + hours * 3600
    moments = [NOON_UNIX_S + 60 * minute for minute in range(int(hours * 60) + 1)] + [end_s]
    total = sum(
        (end - begin) * found.usd_at(begin) for begin, end in itertools.pairwise(moments) if end > begin
    )
    assert found.mean_usd(NOON_UNIX_S, hours) * hours * 3600 == pytest.approx(total, rel=1e-9, abs=1e-6)
    most = max(found.usd_at(moment) for moment in moments if moment < end_s)
    assert found.most_usd(NOON_UNIX_S, hours) == pytest.approx(most)


def test_times_of_the_day_are_those_of_this_machine_also_when_its_clock_is_put_back(in_berlin: None) -> None:
    found = schedule({"8h": 3.0, "18h30": 1.0})
    summer, winter = (datetime(2026, month, 2, tzinfo=UTC).timestamp() for month in (7, 12))
    # 18:30 in Berlin is 16:30 in July and 17:30 in December, of UTC
    assert [when - summer for when, _ in itertools.islice(found.changes(summer), 2)] == [
        6 * 3600,
        16.5 * 3600,
    ]
    assert [when - winter for when, _ in itertools.islice(found.changes(winter), 2)] == [
        7 * 3600,
        17.5 * 3600,
    ]
    put_back = datetime(2026, 10, 24, 16, 30, tzinfo=UTC).timestamp()
    assert found.mean_usd(put_back, 14.5) == 1.0, "the night of 25 October has an hour more"
    assert found.usd_at(put_back + 14.5 * 3600) == 3.0


def test_years_of_changes_are_looked_at_for_a_moment() -> None:
    hourly = schedule({f"{hour}h": float(hour) for hour in range(24)})
    begun = time.monotonic()
    assert hourly.mean_usd(NOON_UNIX_S, 1e7) == pytest.approx(11.5, rel=1e-3)
    assert schedule({"8h": 1.0}).mean_usd(NOON_UNIX_S, 1e5) == 1.0
    assert schedule({"2026-12-01": 1.0}).mean_usd(NOON_UNIX_S, float("inf")) == 1.0
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ({"8h": 1.0, "2026-12-01": 2.0}, "08:00 is a time of each day, and there are dates beside it"),
        ({"8h": 1.0, "08:00": 2.0}, "08:00 has two prices; leave one of them out"),
        ({"noon": 1.0}, "'noon' is neither a time of the day nor a date; write e.g. +cluster.price.schedule"),
        ({"25:00": 1.0}, "'25:00' is neither a time of the day nor a date"),
        ({"2026-13-01": 1.0}, "'2026-13-01' is neither a time of the day nor a date"),
    ],
)
def test_what_is_no_schedule_is_refused_with_one(prices: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        schedule_of(price_of(prices), 2.0)
    assert said in str(refused.value)


def test_a_file_holds_the_same_however_yaml_reads_its_times(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("18:00: 1.2\n8h: 2.4\n'06:15Z': 2\n")
    found = schedule_of(price_of({}, file=str(path)), 2.0)
    assert found is not None
    assert sorted(f"{clock:%H:%M} {usd:g}" for clock, usd in found.daily) == [
        "06:15 2",
        "08:00 2.4",
        "18:00 1.2",
    ]
    path.write_text("2026-12-01: 2.1\n2026-12-15T18:00: 1.8\n")
    dated = schedule_of(price_of({}, file=str(path)), 2.0)
    assert dated is not None
    assert [usd for _, usd in dated.dated] == [2.1, 1.8]
    for text, said in {
        "8h: cheap\n": "'cheap' from '8h' on is no price in dollars",
        "8h: -1\n": "-1 from '8h' on is no price",
        "- 8h\n": "holds no prices",
        "": "holds no prices",
        "1.5: 2\n": "1.5 is no time",
        "{": "cannot be read",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            schedule_of(price_of({}, file=str(path)), 2.0)
    with pytest.raises(ConfigError, match="both say when the price changes"):
        schedule_of(price_of({"8h": 1.0}, file=str(path)), 2.0)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        schedule_of(price_of({}, file=str(tmp_path / "none")), 2.0)


def test_a_plan_begins_when_it_is_said_to() -> None:
    gpu = composed("job=tiny_gpt", "cluster=dgx_h100").gpu
    price = price_of({"2026-12-01T00:00Z": 1.0}, begins="2026-12-02")
    assert price_usd_per_gpu_hour(price, gpu).usd_per_gpu_hour == 1.0
    price.begins = "2026-11-30T23:00Z"
    assert price_usd_per_gpu_hour(price, gpu).usd_per_gpu_hour == 2.0
    assert offers(price, gpu)[0].mean_usd_per_gpu_hour(4.0) == pytest.approx((2.0 + 3 * 1.0) / 4)
    price.begins = None
    assert begins_unix_s(price) == pytest.approx(time.time(), abs=600)
    price.begins = "soon"
    with pytest.raises(ConfigError, match=r"cluster\.price\.begins=soon: is no date"):
        begins_unix_s(price)


@functools.cache
def llama() -> Config:
    return composed("job=llama3_8b", "cluster=dgx_h100")


def bill_of_a_run_as_planned(plan: Plan, found: Schedule | None, begins_s: float) -> float:
    """It holds its GPUs for the hours of its plan, at the prices that its driver tells."""
    assert plan.prediction.hours is not None
    ends_s = plan.prediction.hours * 3600
    timeline: list[tuple[float, Event]] = [(0.0, run_started(plan, "r", None))]
    if found is not None:
        ahead = itertools.takewhile(lambda one: one[0] < begins_s + ends_s, found.changes(begins_s))
        timeline.append((0.0, PricesAnnounced([list(one) for one in ahead])))
    timeline += [(0.0, ResourcesGranted(["n"], plan.layout.ranks)), (0.0, AttemptStarted(1, "h", 1, 4))]
    timeline.append((ends_s, RunEnded(Status.FINISHED, "")))
    records = [Record(seq, s, begins_s + s, event) for seq, (s, event) in enumerate(timeline)]
    return Ledger().fold_all(records).bill().cost_usd


@settings(max_examples=25, deadline=None)
@given(st.none() | SCHEDULES, st.integers(200, 4000))
def test_a_run_that_goes_as_planned_costs_as_planned(prices: dict[str, float] | None, steps: int) -> None:
    config = copy.deepcopy(llama())
    config.job.steps = steps
    config.cluster.price.schedule = prices or {}
    config.cluster.price.begins = "2026-11-30T12:00Z"
    plan = make_plan(config, "train.py", "/", {})
    found = price_schedule(config.cluster.price, config.gpu)
    planned = plan.prediction.cost_usd
    assert planned == pytest.approx(bill_of_a_run_as_planned(plan, found, NOON_UNIX_S), rel=1e-6, abs=1e-6)
    low, high = plan.prediction.costs[0].low_usd, plan.prediction.costs[0].high_usd
    assert low <= planned * (1 + 1e-9)
    assert planned <= high * (1 + 1e-9)


@pytest.mark.parametrize("schedule", [{}, {"8h": 2.0}])
def test_a_begin_that_is_no_date_is_refused_where_the_price_does_not_change_too(
    schedule: dict[str, float],
) -> None:
    price = PriceConfig(usd_per_gpu_hour=3.0, schedule=schedule, begins="soon")
    with pytest.raises(ConfigError, match=r"cluster.price.begins=soon: is no date; write"):
        offers(price, llama().gpu)
