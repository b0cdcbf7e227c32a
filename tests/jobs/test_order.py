"""The order of samples: a bijection, cut into shares that add up however a global batch is split."""

from __future__ import annotations

import importlib
import sys

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.folders import JOBS

sys.path.insert(0, str(JOBS))
order = importlib.import_module("order")

seeds = st.integers(-(2**40), 2**40)


@given(size=st.integers(1, 5000), seed=seeds, epoch=st.integers(0, 10**6))
def test_permutation_is_a_bijection_for_any_size(size: int, seed: int, epoch: int) -> None:
    images = order.permute(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(images), np.arange(size))


@given(size=st.integers(2**33, 2**45), seed=seeds, data=st.data())
def test_permutation_of_a_huge_range_needs_no_table(size: int, seed: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=50, unique=True))
    images = order.permute(np.array(chosen), size, seed, 0)
    assert len(set(images.tolist())) == len(chosen)
    assert images.min() >= 0
    assert images.max() < size


def test_permutation_differs_by_seed_and_by_epoch_and_leaves_no_trace_of_the_order() -> None:
    size = 10_000
    images = order.permute(np.arange(size), size, 1, 0)
    for other in (order.permute(np.arange(size), size, 2, 0), order.permute(np.arange(size), size, 1, 1)):
        assert (images == other).mean() < 0.01
    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.05
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.05


splits = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))


def seen_in_step(ranks: int, micro_batch: int, accumulation: int, consumed: int) -> list[int]:
    seen: list[int] = []
    for rank in range(ranks):
        share = order.Share(rank, ranks, micro_batch, accumulation)
        for micro_step in range(accumulation):
            seen += share.samples(consumed, micro_step).tolist()
    return seen


@given(split=splits, consumed=st.integers(0, 10**12), steps=st.integers(1, 4))
def test_ranks_together_see_each_sample_of_a_global_batch_once(
    split: tuple[int, int, int], consumed: int, steps: int
) -> None:
    batch = split[0] * split[1] * split[2]
    for step in range(steps):
        first = consumed + step * batch
        assert sorted(seen_in_step(*split, first)) == list(range(first, first + batch))


@given(before=splits, after=splits, stop=st.integers(0, 5), size=st.integers(1, 300), seed=seeds)
def test_a_run_resumed_with_another_split_sees_the_same_windows(
    before: tuple[int, int, int], after: tuple[int, int, int], stop: int, size: int, seed: int
) -> None:
    """As long as the global batch is the same, each step reads the same set of windows."""
    batch = before[0] * before[1] * before[2]
    assume(batch % (after[0] * after[1]) == 0)
    after = (after[0], after[1], batch // (after[0] * after[1]))
    windows = order.Windows(np.zeros(size * 3 + 1, dtype=np.uint16), seq_len=3)
    assert windows.count == size

    def read(step: int, split: tuple[int, int, int]) -> list[int]:
        samples = np.array(seen_in_step(*split, step * batch))
        return sorted(windows.shuffled(samples, seed).tolist())

    straight = [read(step, before) for step in range(6)]
    resumed = [read(step, before if step < stop else after) for step in range(6)]
    assert resumed == straight


@given(size=st.integers(1, 400), seed=seeds, epochs=st.integers(1, 3))
def test_every_epoch_reads_every_window_once(size: int, seed: int, epochs: int) -> None:
    windows = order.Windows(np.zeros(size + 1, dtype=np.uint16), seq_len=1)
    read = windows.shuffled(np.arange(size * epochs), seed).reshape(epochs, size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in read)


@given(length=st.integers(0, 500), seq_len=st.integers(1, 20))
def test_windows_cover_the_tokens_and_targets_are_the_next_token(length: int, seq_len: int) -> None:
    windows = order.Windows(np.arange(length, dtype=np.uint32), seq_len)
    assume(windows.count)
    inputs, targets = windows.read(np.arange(windows.count))
    assert np.array_equal(inputs.ravel(), np.arange(windows.count * seq_len))
    assert np.array_equal(targets, inputs + 1)
    assert length - (windows.count * seq_len + 1) < seq_len


@given(length=st.integers(0, 2000), fraction=st.floats(0, 0.999), seq_len=st.integers(1, 50))
def test_validation_tokens_are_never_trained_on(length: int, fraction: float, seq_len: int) -> None:
    train, held_out = order.split(np.arange(length), fraction)
    assert np.array_equal(np.concatenate((train, held_out)), np.arange(length))
    sides = [order.Windows(part, seq_len) for part in (train, held_out)]
    assume(all(side.count for side in sides))
    read = [set(np.concatenate(side.read(np.arange(side.count)), axis=None).tolist()) for side in sides]
    assert not read[0] & read[1]


@given(size=st.integers(1, 300), total=st.integers(1, 300))
def test_validation_windows_are_spread_over_the_slice(size: int, total: int) -> None:
    windows = order.Windows(np.zeros(size + 1, dtype=np.uint16), seq_len=1)
    chosen = windows.spread(np.arange(total), total)
    assert chosen[0] == 0
    assert chosen[-1] < size
    assert np.ptp(np.diff(chosen)) <= 1 if total > 1 else True
    assert total > size or len(set(chosen.tolist())) == total


# --- skipped batches ----------------------------------------------------------------------------


def trained(consumed: int, batch: int, skipped: set[int], steps: int) -> tuple[list[list[int]], int]:
    """Samples of each step as the job reads them, and the position after the last."""
    seen = []
    for _ in range(steps):
        consumed = order.past_skipped(consumed, batch, skipped)
        seen.append(seen_in_step(1, batch, 1, consumed))
        consumed += batch
    return seen, consumed


skip_lists = st.sets(st.integers(0, 40), max_size=30)


@given(batch=st.integers(1, 6), skipped=skip_lists, steps=st.integers(0, 20))
def test_a_run_that_skips_sees_exactly_the_other_batches_in_order(
    batch: int, skipped: set[int], steps: int
) -> None:
    others = [b for b in range(steps + len(skipped)) if b not in skipped][:steps]
    seen, consumed = trained(0, batch, skipped, steps)
    assert seen == [list(range(b * batch, (b + 1) * batch)) for b in others]
    assert consumed == (others[-1] + 1 if others else 0) * batch


@given(batch=st.integers(1, 6), skipped=skip_lists, steps=st.integers(0, 20), stop=st.integers(0, 20))
def test_a_run_that_skips_resumes_where_it_was(batch: int, skipped: set[int], steps: int, stop: int) -> None:
    before, consumed = trained(0, batch, skipped, min(stop, steps))
    after, last = trained(consumed, batch, skipped, steps - len(before))
    assert (before + after, last) == trained(0, batch, skipped, steps)


@given(batch=st.integers(1, 6), early=skip_lists, late=skip_lists, stop=st.integers(0, 12))
def test_batches_skipped_from_a_resume_on_leave_what_was_done_alone(
    batch: int, early: set[int], late: set[int], stop: int
) -> None:
    before, consumed = trained(0, batch, early, stop)
    ahead = {b for b in late if b * batch >= consumed}
    after, _ = trained(consumed, batch, early | late, 5)
    assert before + after == trained(0, batch, early | ahead, stop + 5)[0]


@given(batch=st.integers(1, 9), consumed=st.integers(0, 100), skipped=skip_lists)
def test_from_inside_a_batch_no_skipped_sample_is_read_and_as_few_others_as_possible_are_lost(
    batch: int, consumed: int, skipped: set[int]
) -> None:
    """A run that went on with another global batch stands anywhere."""
    place = order.past_skipped(consumed, batch, skipped)

    def free(first: int) -> bool:
        return all(sample // batch not in skipped for sample in range(first, first + batch))

    starts = [consumed, *(b * batch for b in range(60) if b * batch > consumed)]
    assert place == next(first for first in starts if free(first))
