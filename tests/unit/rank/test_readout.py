"""Numbers that live on a device, played by stand-ins whose arrival the test decides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.rank.probes.readout import Readout, number


class Distant:
    """A scalar on a device: reading it here would wait."""

    device = SimpleNamespace(type="cuda")

    def float(self) -> Distant:
        return self

    def __mul__(self, _factor: float) -> Distant:
        return self

    def __float__(self) -> float:
        raise AssertionError("read without its event")


class DistantReadout(Readout):
    """Numbers arrive when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[bool] = []

    def _copy(self, step: Any, _values: Any) -> None:
        place = len(self.arrived)
        self.arrived.append(False)
        step.arriving = [10.0 + place, 20.0 + place]
        step.event = SimpleNamespace(query=lambda: self.arrived[place])


def test_numbers_on_a_device_are_picked_up_later_and_in_order() -> None:
    readout, told = DistantReadout(), []

    def read(name: str, losses: list[Any], norm: Any) -> None:
        readout.read(losses, 1.0, norm, lambda loss, grad_norm: told.append((name, loss, grad_norm)))

    read("a", [Distant()], 0.5)
    read("b", [Distant()], Distant())
    read("c", [3.0], 4.0)
    assert told == []
    readout.arrived[1] = True
    readout.collect()
    assert told == []
    readout.arrived[0] = True
    readout.collect()
    assert told == [("a", 10.0, 0.5), ("b", 11.0, 21.0), ("c", 3.0, 4.0)]


def test_a_device_that_hangs_does_not_keep_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.rank.probes.readout.FLUSH_TIMEOUT_S", 0.05)
    readout, told = DistantReadout(), []
    readout.read([Distant()], 1.0, 0.5, lambda loss, norm: told.append((loss, norm)))
    readout.flush()
    assert told == [(None, 0.5)]


def test_a_number_is_read_only_where_that_costs_nothing() -> None:
    assert number(2.0) == 2.0
    assert number(3) == 3.0
    assert number(None) is None
    assert number(Distant()) is None
