"""Clusters that a search for the best run cannot take are told with their reason, and not with their name
again."""

from __future__ import annotations

import pytest

from orchestrator.config import composing
from orchestrator.config.schema import GpuConfig
from orchestrator.errors import ClusterNotPlannable
from orchestrator.planner import budget

DEAF = "NVIDIA H200"


def answer(*words: str) -> budget.Answer:
    return budget.answer(composing.composed(words).config, words)


def test_a_cluster_that_was_asked_for_is_refused_with_name_and_reason_apart() -> None:
    without = ["~gpu.peak_flops.fp32", "job.precision=fp32"]
    with pytest.raises(ClusterNotPlannable) as refused:
        answer("job=pretrain", "cluster=dgx_h100", "cluster.nodes=1", "budget_usd=1000", *without)
    assert (refused.value.cluster, refused.value.why[:30]) == ("dgx_h100", "no step time can be predicted ")
    assert str(refused.value) == f"cluster=dgx_h100: {refused.value.why}"


def test_one_of_many_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    known = budget.unrecorded

    def unrecorded(gpu: GpuConfig, precision: str) -> list[str]:
        return ["peak"] if gpu.name.startswith(DEAF) else known(gpu, precision)

    monkeypatch.setattr(budget, "unrecorded", unrecorded)
    found = answer("job=pretrain", "budget_usd=100000")
    assert found.options
    assert found.left_out
    assumed = {"deepseek_h800", "gcp_a4"}  # whose price is nobody's offer
    for why in (why for name, why in found.left_out.items() if name not in assumed):
        assert why.startswith(f"no step time can be predicted for {DEAF}")
