"""Who should run, counted in GPUs: what a stop that does not pay does to the others."""

from __future__ import annotations

import numpy as np

from orchestrator.fleet.choose import Choice, Table, choose


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
