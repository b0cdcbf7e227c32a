"""A search looks up once for each kind of runs how far published ones like it were off."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.config.schema import PlannerConfig
from orchestrator.plan.forecast.prediction import predict
from orchestrator.plan.perf.likeness import Kind, Likeness, likeness
from orchestrator.plan.sizing import best_run
from orchestrator.plan.sizing.limits import Limits
from tests.unit.planner.test_budget import NODES, SHAPES, market


def test_each_kind_is_looked_up_once_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[Kind] = Counter()

    def counted(kind: Kind, planner: PlannerConfig) -> Likeness:
        asked[kind] += 1
        return likeness(kind, planner)

    monkeypatch.setattr(best_run, "likeness", counted)
    deals = market(Limits(2e6, 45.0))
    options = deals.best(SHAPES, NODES)
    assert len(options) > 1
    assert set(asked.values()) == {1}
    for one in options:
        assert predict(one.config, one.candidate.layout, one.candidate.step, None) == one.prediction
