"""Numbers of a step, read from the device without making the training wait for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FLUSH_TIMEOUT_S = 2.0
Emit = Callable[[float | None, float | None], None]


def number(value: Any) -> float | None:
    """A float that is to be had without asking a device; None otherwise."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if on_device(value) or getattr(value, "numel", lambda: 0)() != 1:
        return None
    return float(value)


def on_device(value: Any) -> bool:
    """Whether reading it would wait for an accelerator."""
    return getattr(getattr(value, "device", None), "type", "cpu") != "cpu"


@dataclass
class _Pending:
    """One step's numbers: on the host already, or on their way into `arriving` (pinned, of two)."""

    emit: Emit
    numbers: list[float | None]
    awaited: list[int]
    arriving: Any = None
    event: Any = None

    def has_arrived(self) -> bool:
        return self.event is None or bool(self.event.query())


class Readout:
    """Reads loss and gradient norm of one step after the other, and hands them on in order.

    What lives on the device is copied to pinned memory behind the step's own kernels, and picked
    up when a later call finds the copy done. Nothing here waits but `flush`, and that not long.
    """

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()
        self._spare: list[tuple[Any, Any]] = []

    def read(self, losses: Sequence[Any], scale: float, grad_norm: Any, emit: Emit) -> None:
        """Call `emit(loss, grad_norm)`, now or from a later call. Loss is `scale` x the sum of `losses`."""
        if losses and on_device(losses[0]):
            loss = losses[0] if len(losses) == 1 else sum(loss.float() for loss in losses)
            loss = loss if scale == 1.0 else loss * scale
        else:
            numbers = [number(loss) for loss in losses]
            known = [value for value in numbers if value is not None]
            loss = scale * sum(known) if known and len(known) == len(numbers) else None
        step = _Pending(emit, [number(loss), number(grad_norm)], [])
        step.awaited = [place for place, value in enumerate((loss, grad_norm)) if on_device(value)]
        if step.awaited:
            self._copy(step, (loss, grad_norm))
        self._pending.append(step)
        self.collect()

    def _copy(self, step: _Pending, values: tuple[Any, Any]) -> None:
        import torch

        step.arriving, step.event = (
            self._spare.pop() if self._spare else (torch.zeros(2).pin_memory(), torch.cuda.Event())
        )
        for place in step.awaited:
            step.arriving[place].copy_(values[place].detach().reshape(()), non_blocking=True)
        step.event.record()

    def collect(self) -> None:
        """Hand on what has arrived."""
        while self._pending and self._pending[0].has_arrived():
            step = self._pending.popleft()
            for place in step.awaited:
                step.numbers[place] = float(step.arriving[place])
            if step.event is not None:
                self._spare.append((step.arriving, step.event))
            step.emit(*step.numbers)

    def flush(self) -> None:
        """Hand on all, waiting at most `FLUSH_TIMEOUT_S`: a device that hangs must not keep us."""
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while self._pending and time.monotonic() < deadline:
            self.collect()
            time.sleep(0.001)
        self.abandon()

    def abandon(self) -> None:
        """Hand on the rest without what has not arrived, asking the device nothing: it may be broken."""
        while self._pending:
            step = self._pending.popleft()
            step.emit(*step.numbers)
