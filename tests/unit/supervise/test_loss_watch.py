"""Rejected losses, and which batches training takes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import LossRejected, StepDone
from orchestrator.script_events import LossNotFinite, StepsWithoutEngine
from orchestrator.supervise.loss_watch import AT_LEAST, KEPT, LossWatch, next_batches
from tests.support.batches import batch_of


def watched(
    losses: Iterable[float | None], spike: float | None = 3.0
) -> tuple[LossWatch, list[LossRejected]]:
    """A watch that has seen these losses from step 1 on, and what it rejected."""
    watch = LossWatch(spike)
    seen = [watch.observe(StepDone(1, step, 0.1, loss)) for step, loss in enumerate(losses, 1)]
    return watch, [rejected for rejected in seen if rejected]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0, 30])
def test_what_is_no_number_is_rejected_from_the_first_step_on(bad: float, before: int) -> None:
    (rejected,) = watched([2.0] * before + [bad], spike=None)[1]
    assert (rejected.attempt, rejected.step, rejected.reason) == (1, before + 1, f"the loss is {bad}")


@pytest.mark.parametrize(
    ("first", "ranks", "whose"),
    [
        ([1], 1, " on rank 1 alone"),
        ([0, 3], 2, " on 2 of 16 ranks (0, 3)"),
        ([0, 1], 9, " on 9 of 16 ranks (0, 1, …)"),
        ([0, 1], 16, " on all 16 ranks"),
    ],
)
def test_it_is_said_whose_loss_is_none(first: list[int], ranks: int, whose: str) -> None:
    watch = LossWatch(None)
    watch.told(LossNotFinite(1, 4, first, ranks, 16))
    rejected = watch.observe(StepDone(1, 4, 0.1, math.nan))
    assert rejected is not None
    assert rejected.reason == f"the loss is nan{whose}"
    later = watch.observe(StepDone(2, 5, 0.1, math.nan))
    assert later is not None
    assert later.reason == "the loss is nan", "of that step nobody was named"


def test_where_no_engine_says_what_the_loss_is_only_none_is_rejected() -> None:
    watch = LossWatch(3.0)
    watch.told(StepsWithoutEngine(1, "AdamW"))
    for step in range(1, 40):
        assert watch.observe(StepDone(1, step, 0.1, 1.0 if step < 30 else 1e6)) is None
    assert watch.observe(StepDone(1, 40, 0.1, math.nan)) is not None
    assert watch.observe(StepDone(2, 40, 0.1, 1e9)) is not None, "an attempt with an engine"


def test_a_spike_is_measured_against_the_median() -> None:
    (rejected,) = watched([2.0, 2.2, 1.8] * 10 + [6.5])[1]
    expected = "the loss 6.5 is 3.25 times 2, the median of the 30 before (recovery.loss_spike=3)"
    assert rejected == LossRejected(1, 31, 6.5, expected)
    assert watched([2.0, 2.2, 1.8] * 10 + [5.9])[1] == []
    assert watched([2.0, 2.2, 1.8] * 10 + [6.5], spike=4)[1] == []
    assert watched([2.0, 2.2, 1.8] * 10 + [6.5], spike=None)[1] == []


def test_nothing_is_a_spike_before_enough_was_seen() -> None:
    assert watched([2.0] * (AT_LEAST - 1) + [100.0])[1] == []
    assert len(watched([2.0] * AT_LEAST + [100.0])[1]) == 1
    assert watched([None] * AT_LEAST + [2.0] * (AT_LEAST - 1) + [100.0])[1] == [], "an unknown loss is none"


def test_only_the_last_fifty_count() -> None:
    assert watched([100.0] * 500 + [1.0] * 50 + [40.0])[1][0].step == 551


def test_losses_that_always_scatter_are_left_alone() -> None:
    small = [0.01, 0.02, 0.05, 0.01, 0.01]
    assert watched(small * 20 + [0.06])[1] == []
    assert len(watched(small * 20 + [0.6])[1]) == 1


def test_a_rise_over_a_few_steps_does_not_hide_the_spike() -> None:
    (rejected,) = watched([2.5] * 60 + [3.0, 4.5, 6.0, 7.4, 9.0])[1]
    assert rejected.loss == 9.0


def test_a_loss_that_falls_fast_is_no_spike() -> None:
    assert watched(11 * math.exp(-step / 20) + 0.5 for step in range(300))[1] == []


@pytest.mark.parametrize("level", [0.0, -4.0])
def test_without_a_median_above_zero_only_infinity_and_nan_are_rejected(level: float) -> None:
    assert watched([level] * 50 + [1000.0])[1] == []
    assert len(watched([level] * 50 + [math.nan])[1]) == 1


def test_after_a_rejection_the_attempt_is_not_looked_at_any_more() -> None:
    watch, rejected = watched([2.0] * 20 + [math.nan, math.nan, 2.0])
    assert [r.step for r in rejected] == [21]
    assert watch.observe(StepDone(2, 21, 0.1, 2.0)) is None
    assert watch.observe(StepDone(2, 22, 0.1, math.inf)) == LossRejected(2, 22, math.inf, "the loss is inf")


def test_a_rejected_loss_does_not_count_for_the_median() -> None:
    watch, rejected = watched([2.0] * AT_LEAST + [50.0])
    assert len(rejected) == 1
    assert watch.observe(StepDone(2, AT_LEAST + 1, 0.1, 50.0)) is not None


def test_going_back_forgets_what_came_after() -> None:
    watch, _ = watched([2.0] * 20 + [5.0] * 40)
    watch.rewind(20)
    rejected = watch.observe(StepDone(2, 21, 0.1, 7.0))
    assert rejected is not None
    assert "median of the 20 before" in rejected.reason


def test_steps_done_again_replace_themselves() -> None:
    watch, _ = watched([2.0] * 20 + [5.0] * 40)
    for step in range(21, 31):
        assert watch.observe(StepDone(2, step, 0.1, 2.0)) is None
    rejected = watch.observe(StepDone(2, 31, 0.1, 7.0))
    assert rejected is not None
    assert "7 is 3.5 times 2, the median of the 30 before" in rejected.reason


def test_what_is_kept_is_bounded() -> None:
    watch, _ = watched([2.0] * (3 * KEPT))
    watch.rewind(2 * KEPT + 10)
    rejected = watch.observe(StepDone(2, 2 * KEPT + 11, 0.1, 7.0))
    assert rejected is not None
    assert "median of the 10 before" in rejected.reason


SKIPPED = st.lists(st.integers(0, 60), max_size=40)


def trained(skipped: Iterable[int], steps: int) -> list[int]:
    """The batches of the first steps, by going through all of them."""
    taken, batch, left_out = [], 0, set(skipped)
    while len(taken) < steps:
        if batch not in left_out:
            taken.append(batch)
        batch += 1
    return taken


@given(st.integers(1, 80), SKIPPED)
def test_a_step_trains_on_the_batch_that_counting_finds(step: int, skipped: list[int]) -> None:
    assert batch_of(step, skipped) == trained(skipped, step)[-1]


@given(st.integers(1, 80), st.integers(0, 20), SKIPPED)
def test_the_next_batches_are_those_that_counting_finds(step: int, number: int, skipped: list[int]) -> None:
    assert next_batches(step, number, skipped) == trained(skipped, step + number - 1)[step - 1 :]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), max_size=8))
def test_skipping_changes_no_step_before_the_rejected_one(rejections: list[tuple[int, int]]) -> None:
    skipped: list[int] = []
    for step, number in rejections:
        before = [batch_of(earlier, skipped) for earlier in range(1, step)]
        skip = next_batches(step, number, skipped)
        assert not set(skip) & set(skipped), "a batch is skipped once"
        skipped += skip
        assert [batch_of(earlier, skipped) for earlier in range(1, step)] == before
        assert batch_of(step, skipped) > skip[-1]


@pytest.mark.parametrize("step", [0, -3])
def test_steps_count_from_one(step: int) -> None:
    with pytest.raises(ValueError, match="steps count from 1"):
        batch_of(step, [])


def test_the_loss_of_a_step_that_the_loss_scale_skipped_is_not_judged() -> None:
    watch = LossWatch(3.0)
    assert watch.observe(StepDone(1, 1, 0.1, math.inf, skipped=True)) is None
    assert watch.observe(StepDone(1, 2, 0.1, math.inf)) is not None
