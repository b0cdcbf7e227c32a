"""Which batch a step trains on, for tests that follow the training themselves."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.supervise.loss_watch import next_batches


def batch_of(step: int, skipped: Iterable[int]) -> int:
    """The batch that ``step`` (from 1) trained on, or will, with these batches left out of the run."""
    return next_batches(step, 1, skipped)[0]
