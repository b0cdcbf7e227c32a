"""Whose a price is that was typed."""

from __future__ import annotations

import pytest

from orchestrator.config.composing import compose
from orchestrator.plan.forecast.price import offers

KEY = "cluster.price.usd_per_gpu_hour"


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ([f"{KEY}=2.15"], f"quote: as set by {KEY}; date: not stated"),
        ([f"{KEY}=2.15", "cluster.price.source=contract 7"], "list price: contract 7; date: "),
        ([f"{KEY}=2.15", "cluster.price.as_of=2026-11-01"], f"as set by {KEY}; date: 2026-11-01"),
        (
            ["cluster.price.kind=reserved", "cluster.price.reserved_usd_per_gpu_hour=1.9"],
            "reserved: as set by cluster.price.reserved_usd_per_gpu_hour",
        ),
        ([], "list price: eastus on demand, 98.32 USD/h for 8 GPUs"),
    ],
)
def test_a_price_that_was_typed_does_not_go_by_the_source_of_the_cluster(
    words: list[str], source: str
) -> None:
    config = compose("cluster=azure_nd_h100_v5", "cluster.nodes=1", *words)
    assert source in offers(config.cluster.price, config.gpu)[0].source
