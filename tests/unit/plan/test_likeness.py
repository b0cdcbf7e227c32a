"""Ranges from runs like a plan: what counts as alike, that tables weigh by their likeness, and that less is
claimed where less is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.evidence import BestMfuConfig, EvidenceConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.perf.likeness import (
    HOSTS_DIFFER_BY,
    Kind,
    best_mfu,
    differences,
    kind_of,
    likeness,
    of_evidence,
    quantile,
    steps_between,
)
from tests.support.planned_machines import constants, layout
from tests.unit.plan.test_memory import LLAMA_8B, MIXTRAL

HERE = Kind("hopper", "16-bit", "fsdp", "data", False, 64, 4096)
LIKE = EvidenceConfig(
    "one", "hopper", "16-bit", "fsdp", "data", False, 64, 4096, 100, [0.95, 0.98, 1.0, 1.02, 1.05], 0.5
)
UNLIKE = replace(LIKE, table="other", architecture="ampere", ratios=[0.5, 0.6, 0.7, 0.8, 0.9], best_mfu=0.6)

kinds = st.builds(
    Kind,
    st.sampled_from(["ampere", "hopper", "blackwell"]),
    st.sampled_from(["16-bit", "fp8"]),
    st.sampled_from(["deepspeed", "megatron", "fsdp"]),
    st.sampled_from(["data", "tensor", "pipeline"]),
    st.booleans(),
    st.integers(1, 20_000),
    st.sampled_from([128, 4096, 25_600]),
)


def test_a_plan_is_of_the_kind_that_its_layout_makes_it() -> None:
    assert kind_of(LLAMA_8B, "hopper", "fp16", layout(dp=8)) == Kind(
        "hopper", "16-bit", "deepspeed", "data", False, 8, 4096
    )
    divided = kind_of(MIXTRAL, "ampere", "fp8", replace(layout(tp=2, pp=2), framework="megatron"))
    assert divided == Kind("ampere", "fp8", "megatron", "pipeline", True, 4, 4096)


def test_each_difference_is_a_step_and_named() -> None:
    assert steps_between(HERE, LIKE) == 0
    assert differences(HERE, LIKE) == []
    far = Kind("blackwell", "fp8", "megatron", "pipeline", True, 10_000, 32_768)
    for name in ("architecture", "precision", "framework", "parallelism", "experts", "ranks", "hidden"):
        one = replace(HERE, **{name: getattr(far, name)})
        assert steps_between(HERE, LIKE) < steps_between(one, LIKE) < steps_between(far, LIKE)
        assert len(differences(one, LIKE)) == 1
    assert len(differences(far, LIKE)) == 7
    assert differences(replace(HERE, precision="fp8"), LIKE) == ["16-bit in place of fp8"]


def test_the_range_is_that_of_runs_like_it_and_not_of_others() -> None:
    found = of_evidence(HERE, [LIKE, UNLIKE], 0.0, 0.1)
    assert found.nearest is LIKE
    assert found.alike
    assert found.low < 1 < found.high < 1.1
    other = of_evidence(replace(HERE, architecture="ampere"), [LIKE, UNLIKE], 0.0, 0.1)
    assert other.nearest is UNLIKE
    assert other.low < found.low
    assert of_evidence(HERE, [LIKE], 0.0, 0.1).low > 0.9


def test_a_table_of_many_rows_does_not_speak_for_all() -> None:
    """Two tables as much alike weigh the same, whatever their rows, and a table's own kinds share its weight."""
    slow = replace(LIKE, table="slow", rows=1, ratios=[1.3] * 5)
    many = [replace(LIKE, ranks=ranks) for ranks in (63, 64, 65)]
    once, often = of_evidence(HERE, [LIKE, slow], 0.0, 0.1), of_evidence(HERE, [*many, slow], 0.0, 0.1)
    assert once.high == pytest.approx(often.high, rel=1e-3)
    assert once.high > 1.25


@given(kinds, st.floats(0.05, 1))
def test_less_is_claimed_where_no_run_is_alike(kind: Kind, widening: float) -> None:
    evidence = [LIKE, UNLIKE]
    found = of_evidence(kind, evidence, widening, 0.1)
    assert 0 < found.low <= 1 <= found.high
    assert found.steps == min(steps_between(kind, one) for one in evidence)
    plain = of_evidence(kind, evidence, 0.0, 0.1)
    assert found.low <= plain.low
    assert found.high >= plain.high
    near, far = (replace(HERE, ranks=ranks) for ranks in (64, 64_000))
    ranges = [of_evidence(one, [LIKE], widening, 0.1) for one in (near, far)]
    assert ranges[1].high / ranges[1].low > ranges[0].high / ranges[0].low


def test_a_record_without_a_width_is_like_any() -> None:
    unknown = replace(LIKE, hidden=0)
    for hidden in (128, 4096, 25_600):
        assert steps_between(replace(HERE, hidden=hidden), unknown) == 0
        assert differences(replace(HERE, hidden=hidden), unknown) == []


@given(kinds, st.floats(0, 1), st.floats(0, 1))
def test_less_is_claimed_of_a_step_that_waits_for_its_host(kind: Kind, share: float, more: float) -> None:
    """Of one that does nothing else, what hosts differ by; without published runs the mean error holds both."""
    plain = of_evidence(kind, [LIKE, UNLIKE], 0.05, 0.1)
    assert plain.waiting(0.0) == plain
    less, most = (plain.waiting(part) for part in (min(share, more), max(share, more)))
    assert most.low <= less.low <= plain.low
    assert plain.high <= less.high <= most.high
    alone = plain.waiting(1.0)
    assert math.log(alone.high / plain.high) == pytest.approx(HOSTS_DIFFER_BY)
    assert math.log(plain.low / alone.low) == pytest.approx(HOSTS_DIFFER_BY)
    assert of_evidence(kind, [], 0.05, 0.1).waiting(share) == of_evidence(kind, [], 0.05, 0.1)


def test_without_evidence_the_mean_error_is_the_range() -> None:
    found = of_evidence(HERE, [], 0.5, 0.25)
    assert (found.low, found.high, found.nearest) == (0.8, pytest.approx(4 / 3), None)
    assert not found.alike


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"range_widening": -1.0}, r"planner.range_widening=-1.0: must be from 0 to 2"),
        ({"range_widening": float("inf")}, r"planner.range_widening=inf"),
        ({"evidence": [replace(LIKE, ratios=[])]}, r"planner.evidence: of table one .* ratios \[\]"),
        ({"evidence": [replace(LIKE, ratios=[0.0])]}, r"planner.evidence: .*planner.evidence=\[\]"),
        ({"evidence": [replace(LIKE, parallelism="none")]}, r"parallelism none \(one of data, tensor"),
        ({"evidence": [replace(LIKE, rows=0)]}, r"rows 0 \(1 or more\)"),
    ],
)
def test_a_record_that_says_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        likeness(HERE, replace(constants(), **change))


def test_quantiles_of_weighed_values() -> None:
    assert quantile([3.0, 1.0, 2.0], [1, 1, 1], 0.5) == 2
    assert quantile([1.0, 2.0], [3, 1], 0.5) == pytest.approx(1.25)
    assert quantile([5.0], [1], 0.9) == 5
    assert quantile([1.0, 2.0, 3.0], [1, 1, 1], 0.99) == 3


def test_the_best_published_rate_is_that_of_models_about_as_wide_on_such_accelerators() -> None:
    best = BestMfuConfig("one", "hopper", "16-bit", False, 4096, 0.5)
    planner = replace(
        constants(),
        best_published=[
            best,
            replace(best, hidden=16384, mfu=0.6),
            replace(best, experts=True, mfu=0.4),
            replace(best, precision="fp8", mfu=0.9),
            replace(best, architecture="ampere", mfu=0.7),
        ],
    )
    assert [best_mfu(planner, HERE, hidden) for hidden in (2048, 8192, 8193, 16384)] == [0.5, 0.6, 0.6, 0.6]
    assert best_mfu(planner, replace(HERE, experts=True), 4096) == 0.4
    # of no model as wide, or as small: of any of those accelerators
    assert best_mfu(planner, HERE, 512) == 0.6
    assert best_mfu(planner, replace(HERE, experts=True), 16384) == 0.6
    assert best_mfu(planner, replace(HERE, architecture="blackwell"), 4096) is None


def test_a_record_without_widths_answers_by_accelerator_and_precision() -> None:
    evidence = [LIKE, UNLIKE, replace(LIKE, precision="fp8", best_mfu=0.9)]
    planner = replace(constants(), evidence=evidence, best_published=[])
    assert best_mfu(planner, HERE, 4096) == 0.5
    assert best_mfu(planner, replace(HERE, architecture="ampere"), 4096) == 0.6
    assert best_mfu(planner, replace(HERE, architecture="blackwell"), 4096) is None


def test_what_is_on_record_is_of_all_tables_and_in_order() -> None:
    evidence = constants().evidence
    assert len({one.table for one in evidence}) == 8
    assert sum(one.rows for one in evidence) == 1839
    for one in evidence:
        assert one.ratios == sorted(one.ratios)
        assert 0 < one.best_mfu < 0.7
    best = constants().best_published
    assert len(
        {(one.architecture, one.precision, one.experts, round(math.log2(one.hidden))) for one in best}
    ) == len(best)
    assert max(one.mfu for one in best) == max(one.best_mfu for one in evidence)
    trained = Kind("hopper", "16-bit", "megatron", "pipeline", False, 256, 8192)
    assert likeness(trained, constants()).alike
    assert not likeness(replace(trained, architecture="blackwell"), constants()).alike
    assert not likeness(replace(trained, architecture="cdna3", experts=True), constants()).alike
