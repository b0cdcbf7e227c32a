"""When a run reached a loss, and what it had cost by then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ledger.mlflow.reaching import Past, Reached, amount_at, reached, smoothed

LOSSES = st.lists(st.floats(0.1, 20), max_size=40).map(lambda values: losses(*values))


def losses(*values: float) -> list[Past]:
    return [Past(1000 * place, place, value) for place, value in enumerate(values, start=1)]


def first_reached(told: list[Past], wanted: float) -> Reached | None:
    return reached(told, wanted)[0]


def best_of(told: list[Past]) -> float | None:
    return reached(told, 0.0)[1]


def test_one_easy_batch_reaches_nothing_and_one_hard_one_delays_nothing() -> None:
    noisy = losses(5, 4.9, 1.0, 4.8, 4.7, 4.6, 3.0, 3.0, 9.0, 3.0, 2.9, 2.9)
    found = first_reached(noisy, 3.0)
    assert found is not None
    assert (found.step, found.time_ms) == (10, 10_000), "three of the last five are no higher, one is far"
    assert first_reached(noisy, 1.0) is None
    assert best_of(noisy) == 3.0
    assert best_of([]) is None


@given(LOSSES, st.floats(0.1, 20), st.floats(0.1, 20))
def test_a_lower_loss_is_never_reached_earlier(told: list[Past], one: float, other: float) -> None:
    easy, hard = (first_reached(told, loss) for loss in (max(one, other), min(one, other)))
    if hard is not None:
        assert easy is not None
        assert easy.step <= hard.step


@given(LOSSES)
def test_the_best_loss_is_the_lowest_that_is_reached(told: list[Past]) -> None:
    best = best_of(told)
    if best is None:
        assert not told
        return
    assert first_reached(told, best) is not None
    assert first_reached(told, best - 1e-9) is None
    assert min(one.value for one in told) <= best
    assert len(smoothed(told)) == len(told)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6)), min_size=1, max_size=20),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_what_was_spent_never_falls_and_never_passes_the_bill(
    points: list[tuple[int, float]], one: int, other: int
) -> None:
    times, sums = sorted(time for time, _ in points), sorted(amount for _, amount in points)
    bills = [Past(time, 0, amount) for time, amount in zip(times, sums, strict=True)]
    early, late = (amount_at(bills, 0, time) for time in sorted((one, other)))
    assert early is not None
    assert late is not None
    assert 0 <= early <= late * (1 + 1e-9) + 1e-9
    assert late <= sums[-1]


def test_between_two_bills_it_grows_with_the_time() -> None:
    bills = [Past(2000, 1, 10.0), Past(4000, 9, 30.0)]
    assert amount_at(bills, 0, 3000) == pytest.approx(20.0)
    assert amount_at(bills, 0, 1000) == pytest.approx(5.0), "nothing at the beginning"
    assert amount_at(bills, 0, 9000) == 30.0
    assert amount_at([], 0, 1) is None
