"""Which losses are not to be gone on from, and which batches a run leaves out because of them. Pure.

Batches are global and count from 0; steps count from 1. Training takes the batches in order and
leaves out the skipped ones, so each step's batch follows from the step and the skipped ones alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from statistics import median

from orchestrator.events import Event, LossRejected, StepDone
from orchestrator.script_events import LossNotFinite, StepsWithoutEngine
from orchestrator.text import figure

WINDOW = 50  # accepted losses that a spike is measured against
AT_LEAST = 10  # with fewer, only NaN and infinity are rejected
# the newest of the window do not say how much the losses scatter: they may be the rise to a spike
RECENT = 10
KEPT = 1000  # accepted losses, so that a window is left after going back


class LossWatch:
    """Rejects losses that are NaN, infinite or a spike.

    With the median m of the last 50 accepted losses and the highest h of them without the newest 10, a
    loss is a spike when it is above ``loss_spike`` x m and further above m than ``loss_spike`` x (h - m).
    The second condition leaves losses alone that always scatter so much, as small ones of small batches
    do. Nothing is a spike before 10 losses were accepted, where m is not above 0, or where
    ``loss_spike`` is None.

    Nor is anything a spike where no engine says what the loss is: a script may call ``backward`` on anything,
    and what it saved is not ours to go back to.

    After a rejection the attempt's later steps are not looked at: they follow from the rejected one.
    """

    def __init__(self, loss_spike: float | None) -> None:
        self.loss_spike = loss_spike
        self._accepted: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self._rejected_attempt: int | None = None
        self._not_finite: LossNotFinite | None = None
        self._without_engine: int | None = None  # an attempt

    def told(self, event: Event) -> None:
        """Take what is told of a step before it is observed: whose loss is none, and that no engine says what
        the loss is."""
        match event:
            case LossNotFinite():
                self._not_finite = event
            case StepsWithoutEngine(attempt=attempt):
                self._without_engine = attempt

    def observe(self, step: StepDone) -> LossRejected | None:
        """Take a step into account; its loss is accepted, unknown (None) or rejected."""
        if step.loss is None or step.skipped or step.attempt == self._rejected_attempt:
            return None
        self.rewind(step.step - 1)  # a step that is done again replaces what it was
        reason = self._reason_against(step)
        if reason is None:
            self._accepted.append((step.step, step.loss))
            return None
        self._rejected_attempt = step.attempt
        return LossRejected(step.attempt, step.step, step.loss, reason)

    def rejected(self, event: LossRejected) -> None:
        """Take over what an earlier driver decided of a step that was observed."""
        self.rewind(event.step - 1)
        self._rejected_attempt = event.attempt

    def rewind(self, step: int) -> None:
        """Forget the losses after this step, from which the run goes on."""
        while self._accepted and self._accepted[-1][0] > step:
            self._accepted.pop()

    def _reason_against(self, step: StepDone) -> str | None:
        loss = step.loss
        assert loss is not None, "one that is not known is not looked at"
        if not math.isfinite(loss):
            return f"the loss is {loss}{_whose(self._not_finite, step)}"
        judged = step.attempt != self._without_engine and len(self._accepted) >= AT_LEAST
        if self.loss_spike is None or not judged:
            return None
        before = list(islice(reversed(self._accepted), WINDOW))  # newest first
        middle = median(value for _, value in before)
        settled = before[RECENT:] if len(before) >= AT_LEAST + RECENT else before
        scatter = max(value for _, value in settled) - middle
        if middle <= 0 or loss <= self.loss_spike * middle or loss - middle <= self.loss_spike * scatter:
            return None
        times = f"{figure(loss / middle)} times {figure(middle, 4)}, the median of the {len(before)} before"
        return f"the loss {figure(loss, 4)} is {times} (recovery.loss_spike={self.loss_spike:g})"


def _whose(found: LossNotFinite | None, step: StepDone) -> str:
    """Which ranks' loss it is, in words; "" where it is not known or there is only one."""
    if found is None or (found.attempt, found.step) != (step.attempt, step.step) or found.of_ranks < 2:
        return ""
    if found.ranks == found.of_ranks:
        return f" on all {found.ranks} ranks"
    if found.ranks == 1:
        return f" on rank {found.first[0]} alone"
    more = ", …" if found.ranks > len(found.first) else ""
    return f" on {found.ranks} of {found.of_ranks} ranks ({', '.join(map(str, found.first))}{more})"


def next_batches(step: int, number: int, skipped: Iterable[int]) -> list[int]:
    """The ``number`` batches that training takes from ``step`` on, that step's own first."""
    return list(islice(_batches_from(step, skipped), number))


def _batches_from(step: int, skipped: Iterable[int]) -> Iterator[int]:
    """Batches in the order of training from ``step`` on; ``ValueError`` for a step below 1."""
    if step < 1:
        raise ValueError(f"step {step}: steps count from 1")
    left_out = set(skipped)
    batch = step - 1
    for number in sorted(left_out):
        if number > batch:
            break
        batch += 1
    return (number for number in count(batch) if number not in left_out)
