"""Who should run, counted in GPUs: what a stop that does not pay does to the others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet.choose import Choice, Table, choose, fill, worthiest_first


def _chosen(worth: list[float], left_h: list[float], *, running: int, gpus: int = 8) -> Choice:
    """Jobs with as many GPUs each, of which the first run; a stop costs 5 dollars."""
    count = len(worth)
    runs = np.arange(count) < running
    table = Table(
        np.array(worth), np.zeros(count, int), np.arange(count, dtype=float), np.full(count, gpus), runs,
        np.zeros(count, bool), np.array(left_h), np.full(count, 5.0), np.ones(count, bool),
    )  # fmt: skip
    return choose(table, running * gpus)


def test_who_cannot_pay_for_any_stop_leaves_its_place_to_who_is_behind_it_and_can():
    short = [(200.0, 1e-5)] * 12  # worth the most, but a stop would cost more than they could ever gain
    pays = [(100.0, 1.0)]
    victims = [(1.0 + at / 100, 10.0) for at in range(10)]
    worth, left_h = zip(*victims, *short, *pays, strict=True)
    found = _chosen(list(worth), list(left_h), running=10)
    assert found == Choice(starts=[22], stops=[0])


def test_one_stop_that_does_not_pay_does_not_keep_others_from_being_made():
    dear = [(1.5, 0.01)] * 5
    pay = [(100.0, 1.0)] * 3
    victims = [(1.0 + at / 100, 10.0) for at in range(10)]
    worth, left_h = zip(*victims, *dear, *pay, strict=True)
    found = _chosen(list(worth), list(left_h), running=10)
    assert sorted(found.starts) == [15, 16, 17]
    assert sorted(found.stops) == [0, 1, 2]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(-5, 200))
def test_who_fits_is_who_fits_one_by_one(gpus, free):
    fits, left = [], free
    for count in gpus:
        fits.append(count <= left)
        left -= count if fits[-1] else 0
    assert fill(np.array(gpus, int), free).tolist() == fits


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 3)), max_size=12))
def test_the_worthiest_goes_first_of_equals_who_came_first_then_by_rows(jobs):
    columns = [np.array([job[at] for job in jobs], float) for at in range(3)]
    found = worthiest_first(columns[0], columns[1].astype(int), columns[2]).tolist()
    assert found == sorted(
        range(len(jobs)), key=lambda row: (-jobs[row][1], -jobs[row][0], jobs[row][2], row)
    )
