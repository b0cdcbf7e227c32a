"""What is said of the serving model's accuracy is what its benchmark finds."""

from __future__ import annotations

import pytest

from benchmarks import serving_accuracy as accuracy
from benchmarks import serving_experts as experts
from orchestrator.config.schema import ServeConfig


@pytest.fixture(scope="module")
def known() -> list[accuracy.Row]:
    return accuracy.rows()


def test_the_share_that_software_reaches_is_the_tables_own(known: list[accuracy.Row]) -> None:
    assert ServeConfig.software_share == pytest.approx(accuracy.software_share(known), abs=0.03)


def test_the_document_has_what_the_benchmark_finds(known: list[accuracy.Row]) -> None:
    text = accuracy.DOCUMENT.read_text()
    told = text.split(accuracy.BEGIN)[1].split(accuracy.END)[0].strip()
    assert told == accuracy.markdown(known, ServeConfig.software_share), (
        "docs/serving.md is stale: run python -m benchmarks.serving_accuracy --write"
    )


def test_a_deployment_with_expert_parallelism_is_within_thirty_percent() -> None:
    assert [one.what for one in experts.rates() if abs(one.error) > 0.3] == []
    told = accuracy.DOCUMENT.read_text().split(experts.BEGIN)[1].split(experts.END)[0].strip()
    assert told == experts.markdown(), (
        "docs/serving.md is stale: run python -m benchmarks.serving_experts --write"
    )


def test_three_published_tables_are_met_in_the_median(known: list[accuracy.Row]) -> None:
    with_batch = [one for one in accuracy.summary(known, ServeConfig.software_share) if one["rows"] >= 10]
    assert len(with_batch) == 3
    for one in with_batch:
        assert one["median_abs_error"] < 0.2, one
        assert one["within_30_percent"] >= 0.75, one


def test_chatgpt_as_its_source_states_it_is_within_thirty_percent() -> None:
    stated = accuracy.chatgpt()[0]
    assert abs(stated.error) < 0.3
    assert abs(stated.gpus / accuracy.SOURCE_GPUS - 1) < 0.3


def test_a_rate_twice_as_high_is_an_error_of_a_half(known: list[accuracy.Row]) -> None:
    row = known[0]
    twice = accuracy.Row(**(vars(row) | {"measured": 2 * row.measured}))
    assert twice.error(1.0) == pytest.approx((row.error(1.0) - 1) / 2)
