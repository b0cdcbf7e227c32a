"""A search looks up once for each kind of runs how far published ones like it were off."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.plan.forecast.prediction import predict
from orchestrator.plan.perf.likeness import Kind, Likeness, Record
from orchestrator.plan.sizing.limits import Limits
from tests.unit.planner.test_budget import NODES, SHAPES, market


def test_each_kind_is_looked_up_once_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[Kind] = Counter()

    looked_up = Record.likeness

    def counted(record: Record, kind: Kind) -> Likeness:
        asked[kind] += 1
        return looked_up(record, kind)

    monkeypatch.setattr(Record, "likeness", counted)
    deals = market(Limits(2e6, 45.0))
    options = deals.best(SHAPES, NODES)
    assert len(options) > 1
    assert set(asked.values()) == {1}
    for one in options:
        assert predict(one.config, one.candidate.layout, one.candidate.step, None) == one.prediction
