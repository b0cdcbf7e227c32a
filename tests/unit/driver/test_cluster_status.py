"""What a run that goes on has cost so far, as ``status`` shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.overview import LiveRun
from orchestrator.driver.cluster_status import live
from orchestrator.events import PricesAnnounced
from tests.support.played_runs import BEGIN, PRICE, steps
from tests.unit.cli.test_incidents_shown import run_directory

BEGAN_S = 1.7e9


def seen(run_dir: Path, since_s: float, now_s: float) -> tuple[float, float]:
    run = LiveRun("night-1", 2, 4, "GPU", PRICE, BEGAN_S + since_s, 5, str(run_dir))
    told = live(run, BEGAN_S + now_s)
    return told["held_s"], told["cost_usd"]


def test_a_price_that_has_changed_since_its_plan_counts(tmp_path: Path) -> None:
    dearer = (3.5, PricesAnnounced([[BEGAN_S + 20.0, 2 * PRICE]]))
    directory = run_directory(tmp_path, "night-1", [*BEGIN, *steps(1, 1, 3, at=1), dearer])
    assert seen(directory, 0.0, 30.0) == pytest.approx((30.0, 4 * (20 + 2 * 10) * PRICE / 3600))


def test_what_earlier_drivers_held_counts(tmp_path: Path) -> None:
    directory = run_directory(tmp_path, "night-1", [*BEGIN, *steps(1, 1, 3, at=1)])
    assert seen(directory, 25.0, 30.0) == pytest.approx((30.0, 4 * 30 * PRICE / 3600))


def test_without_its_journal_the_price_of_its_plan_does(tmp_path: Path) -> None:
    assert seen(tmp_path / "elsewhere", 10.0, 30.0) == pytest.approx((20.0, 4 * 20 * PRICE / 3600))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.jsonl").write_text("no journal\n")
    assert seen(tmp_path / "broken", 10.0, 30.0)[0] == 20.0
