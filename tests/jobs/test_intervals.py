"""When a job saves: what its flag may say, the best interval, and the timer under a clock of our own."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.folders import JOBS

sys.path.insert(0, str(JOBS))
intervals = importlib.import_module("intervals")
settings = importlib.import_module("settings")
Every = intervals.Every


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("auto", Every(auto=True)),
        ("0", Every()),
        ("50", Every(steps=50)),
        ("90s", Every(seconds=90)),
        ("0.5s", Every(seconds=0.5)),
        ("10min", Every(seconds=600)),
        ("1.5 h", Every(seconds=5400)),
    ],
)
def test_steps_a_time_or_auto(text: str, every: object) -> None:
    assert intervals.parse_every(text) == every
    assert (
        settings.parse_arguments("", ["--deepspeed_config=x", f"--checkpoint_every={text}"]).checkpoint_every
        == every
    )


@pytest.mark.parametrize(
    "text", ["", "often", "10m", "10 hours", "-5", "1.5", "-1s", "5s later", "{interval}"]
)
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"is neither auto nor steps \(50\) nor a time \(90s, 10min, 2h\)"):
        intervals.parse_every(text)
    with pytest.raises(ValueError, match="'0s' is no time: write 0 to save at the end only"):
        intervals.parse_every("0s")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--checkpoint_every=often", "--checkpoint_every: 'often' is neither auto nor steps"),
        ("--skip_batches=3,x", "--skip_batches: '3,x' must be numbers of batches with commas between them"),
        ("--skip_batches=-3", "--skip_batches: '-3' must be numbers of batches"),
        ("--mtbf_s=-1", "--mtbf_s: -1 must be 0 or more seconds"),
        ("--mtbf_s=nan", "--mtbf_s: nan must be 0 or more seconds"),
    ],
)
def test_flags_that_cannot_be_read_are_named(
    capsys: pytest.CaptureFixture[str], flag: str, message: str
) -> None:
    with pytest.raises(SystemExit) as leaving:
        settings.parse_arguments("", ["--deepspeed_config=x", flag])
    assert leaving.value.code == 2
    assert f"argument {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "batches"), [("", set()), ("3", {3}), ("3,17", {3, 17}), (" 17, 3,,3 ", {3, 17})]
)
def test_skipped_batches_are_a_list_that_may_be_empty(text: str, batches: set[int]) -> None:
    assert (
        settings.parse_arguments("", ["--deepspeed_config=x", f"--skip_batches={text}"]).skip_batches
        == batches
    )


# --- the best interval --------------------------------------------------------------------------


def slowdown(interval_s: float, stall_s: float, mtbf_s: float) -> float:
    """Time per second of training with failures at random: Daly's model (his equation 20), restarts left
    out."""
    return mtbf_s * math.expm1((interval_s + stall_s) / mtbf_s) / interval_s


@given(mtbf_s=st.floats(60, 1e8), part=st.floats(1e-7, 0.5))
def test_no_other_interval_is_better(mtbf_s: float, part: float) -> None:
    stall_s = part * mtbf_s
    best = slowdown(intervals.best_interval_s(stall_s, mtbf_s), stall_s, mtbf_s)
    others = [2 ** (exponent / 50) * math.sqrt(2 * stall_s * mtbf_s) for exponent in range(-200, 201)]
    least = min(slowdown(interval_s, stall_s, mtbf_s) for interval_s in others)
    assert best - 1 <= 1.01 * (least - 1)


def test_where_failures_are_rare_it_is_youngs() -> None:
    for stall_s, mtbf_s, young_s in ((2, 10_000, 200), (0.5, 1e6, 1000), (18, 1e8, 60_000)):
        assert intervals.best_interval_s(stall_s, mtbf_s) == pytest.approx(young_s, rel=0.01)


@pytest.mark.parametrize(("stall_s", "mtbf_s", "daly_s"), [(2, 10_000, 198.6689), (10, 20, 13.8889)])
def test_it_is_dalys_equation_worked_out_by_hand(stall_s: float, mtbf_s: float, daly_s: float) -> None:
    """For 10 s and 20 s: 20 (1 + 1/6 + 1/36) - 10."""
    assert intervals.best_interval_s(stall_s, mtbf_s) == pytest.approx(daly_s, abs=1e-4)


def test_where_saves_take_longer_than_the_time_between_failures_it_is_that_time() -> None:
    assert intervals.best_interval_s(100, 40) == 40


def test_the_usual_time_between_failures_is_llama_3s() -> None:
    assert intervals.usual_mtbf_s(16_384) == pytest.approx(54 * 24 * 3600 / 419, rel=0.01)
    assert intervals.usual_mtbf_s(8) / intervals.usual_mtbf_s(16_384) == pytest.approx(2048)


# --- the timer ----------------------------------------------------------------------------------


def saves(
    every: object, steps: int, step_s: float, stalls_s: list[float], mtbf_s: float = 1e6, at: int = 0
) -> list[int]:
    """Steps after which a lone rank saves; a save takes the next of `stalls_s`, the last one for ever."""
    now = 1000.0
    timer = intervals.SaveTimer(every, mtbf_s, at, clock=lambda: now)
    saved = []
    for step in range(at, at + steps):
        voted = timer.due(step)
        now += step_s
        if voted or timer.falls_on(step + 1):
            stall_s = stalls_s[min(len(saved), len(stalls_s) - 1)]
            now += stall_s
            timer.saved(step + 1, stall_s)
            saved.append(step + 1)
    return saved


def test_fixed_steps_need_no_clock() -> None:
    assert saves(Every(steps=4), 10, step_s=0.0, stalls_s=[0.0], at=3) == [4, 8, 12]
    assert saves(Every(), 1000, step_s=1e6, stalls_s=[0.0]) == []


def test_a_time_counts_from_the_end_of_the_last_save() -> None:
    assert saves(Every(seconds=10), 40, step_s=2.0, stalls_s=[7.0]) == [6, 12, 18, 24, 30, 36]


def test_auto_saves_early_to_learn_the_price_and_then_at_the_best_interval() -> None:
    """Daly for a stall of 2 s and a failure every 10,000 s: 198.7 s, that is 100 steps of 2 s."""
    assert saves(Every(auto=True), 320, 2.0, [2.0], mtbf_s=1e4) == [11, 112, 213, 314]
    assert saves(Every(auto=True), 120, 2.0, [2.0], mtbf_s=1e4, at=500) == [511, 612]


def test_auto_forgets_the_first_save_once_it_knows_better() -> None:
    """The first takes 8 s: Young for that would be 400 s between all of them."""
    assert saves(Every(auto=True), 420, 2.0, [8.0, 2.0], mtbf_s=1e4) == [11, 210, 311, 412]


def test_auto_is_bounded_below_by_steps_and_above_by_an_hour() -> None:
    assert saves(Every(auto=True), 30, step_s=100.0, stalls_s=[1e-9], mtbf_s=1.0) == [11, 17, 23, 29]
    assert saves(Every(auto=True), 130, step_s=60.0, stalls_s=[100.0], mtbf_s=1e9) == [11, 72]
