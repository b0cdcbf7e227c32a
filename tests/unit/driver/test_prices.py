"""What a driver tells of prices that change: before they hold, again when they run out, and of a file that
somebody writes anew."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.config.schema import Config
from orchestrator.driver import prices as driver_prices
from orchestrator.driver.prices import Prices, with_prices
from orchestrator.events import (
    Event,
    PricesAnnounced,
    Record,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.price_words import announced
from tests.unit.config.test_conf import composed

BEGAN_UNIX_S = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
STARTED = RunStarted("r", "tiny", "local", "h100", 8, 2.0)
ENDED = RunEnded(Status.FINISHED, "")


def config_of(*words: str) -> Config:
    return composed("job=tiny_gpt", "cluster=dgx_h100", *words)


class Clock:
    def __init__(self) -> None:
        self.s = BEGAN_UNIX_S
        self.notices: list[str] = []

    def prices(self, config: Config, charged: float = 2.0) -> Prices:
        return Prices(config, lambda: charged, self.notices.append, lambda: self.s)


LIST = ("cluster.price.kind=list", "cluster.price.usd_per_gpu_hour=2.0")


def test_a_price_that_stays_is_not_told_and_another_one_of_a_run_taken_up_once() -> None:
    same = Clock().prices(config_of(*LIST))
    assert (same.due(), same.due(), same.change, same.most_usd()) == (None, None, False, 2.0)
    other = Clock().prices(config_of(*LIST), charged=3.0)
    assert other.due() == PricesAnnounced([[BEGAN_UNIX_S, 2.0]], config_of().cluster.price.source)
    assert other.due() is None


def test_what_is_to_come_is_told_ahead_and_again_before_it_runs_out() -> None:
    clock = Clock()
    prices = clock.prices(config_of(*LIST, r"+cluster.price.schedule={08\:00Z: 3, 18h00Z: 1}"))
    told = prices.due()
    assert told is not None
    assert told.prices[0] == [BEGAN_UNIX_S, 3.0]
    assert told.prices[1] == [BEGAN_UNIX_S + 6 * 3600, 1.0]
    assert len(told.prices) == 1 + driver_prices._AHEAD
    assert prices.due() is None
    clock.s = told.prices[driver_prices._AHEAD // 2][0]
    assert prices.due() is None
    clock.s = told.prices[driver_prices._AHEAD // 2 + 1][0]
    again = prices.due()
    assert again is not None
    assert again.prices[-1][0] > told.prices[-1][0]
    assert prices.most_usd() == 1.0
    clock.s = BEGAN_UNIX_S + 5.5 * 3600
    assert prices.most_usd() == 3.0, "what is kept free to save is paid at the higher of both"
    assert prices.mean_usd(1.0) == pytest.approx(2.0)


def test_a_file_that_is_written_anew_holds_from_then_on_and_a_broken_one_changes_nothing(
    tmp_path: Path,
) -> None:
    path, clock = tmp_path / "prices.yaml", Clock()
    path.write_text("2026-12-01: 2.5\n")
    prices = clock.prices(config_of(*LIST, f"cluster.price.file={path}"))
    first = prices.due()
    assert first is not None
    assert [usd for _, usd in first.prices] == [2.0, 2.5]
    prices.look()
    assert prices.due() is None
    path.write_text("2026-11-01: 1.75\n")
    os.utime(path, (1, 1))
    prices.look()
    clock.s += 60
    assert prices.due() == PricesAnnounced([[clock.s, 1.75]], str(path))
    path.write_text("nonsense: [\n")
    prices.look()
    prices.look()
    (notice,) = clock.notices
    assert notice.endswith("; the run goes on at the prices that stood there before")
    assert f"cluster.price.file={path}: cannot be read" in notice
    assert prices.due() is None
    path.unlink()
    prices.look()
    assert (len(clock.notices), prices.mean_usd(9.0)) == (1, 1.75)


def test_it_is_read_again_while_the_run_goes_on(tmp_path: Path) -> None:
    path, clock = tmp_path / "prices.yaml", Clock()
    path.write_text("2026-11-01: 1.0\n")
    prices = clock.prices(config_of(*LIST, f"cluster.price.file={path}"))
    with prices.read_again(every_s=0.01):
        prices.due()
        path.write_text("2026-11-01: 9.25\n")
        told = None
        for _ in range(6000):
            if (told := prices.due()) is not None:
                break
            driver_prices.time.sleep(0.01)
    assert told is not None
    assert told.prices[0][1] == 9.25


def test_it_stands_behind_the_first_event_and_never_behind_the_last() -> None:
    events: list[Event] = [STARTED, ResourcesGranted(["n"], 8), ENDED]
    prices = Clock().prices(config_of(*LIST, "+cluster.price.schedule={2026-12-01T00\\:00Z: 1.0}"))
    told = list(with_prices(iter(events), prices))
    assert [type(event).__name__ for event in told] == [
        "RunStarted", "PricesAnnounced", "ResourcesGranted", "RunEnded",
    ]  # fmt: skip
    records = [
        Record(seq, s, BEGAN_UNIX_S + s, event)
        for seq, (s, event) in enumerate(zip([0.0, 0.0, 0.0, 24 * 3600.0], told, strict=True))
    ]
    # twelve hours at two dollars, then at one
    assert Ledger().fold_all(records).bill().cost_usd == pytest.approx(8 * 12 * (2.0 + 1.0))
    prices = Clock().prices(config_of(*LIST), charged=3.0)
    assert list(with_prices(iter([ENDED]), prices)) == [ENDED]


def test_it_is_told_in_words() -> None:
    at = [datetime(2026, 12, day, 18).timestamp() for day in (1, 2, 3)]
    said = announced(PricesAnnounced([[at[0], 2.4], [at[1], 1.2], [at[2], 3.0], [at[2] + 9, 1.0]]), "GPU")
    assert said == (
        "from now on $2.40 per GPU-hour, $1.20 from 2026-12-02 18:00 on, $3.00 from 2026-12-03 18:00 on,"
        " and so on"
    )
    assert announced(PricesAnnounced([]), "GPU") == "the price does not change any more"
    assert announced(PricesAnnounced([[1.0, 1.0], [1e300, 2.0]]), "CPU core").endswith(
        "$2.00 from some day on"
    )
