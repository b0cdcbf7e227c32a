"""The losses that a training loop without an engine calls backward on, and what the loss of its step is."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from orchestrator.rank.probes.readout import on_device

# How far from 1 a factor times the number of micro-batches may be: what was divided is in single precision.
_TOLERANCE = 1e-3


class MicroLosses:
    """Of one step. With gradient accumulation a script may divide each micro-batch's loss by their number,
    and the step's loss is their sum; or it may not, and it is their mean. Which of them it is follows from
    the last operation of the loss: a division by a plain number, or a product with one. ``summed`` says that
    a library is known to divide, however it does so.
    """

    def __init__(self) -> None:
        self.summed = False
        self._losses: list[Any] = []
        self._factors: list[float | None] = []
        self._most = 1
        self._scaled: tuple[weakref.ref[Any], Any] | None = None

    def scaled(self, loss: Any, scaled: Any) -> None:
        """The loss was multiplied by a loss scale, and the product is what backward is called on."""
        self._scaled = (weakref.ref(scaled), loss.detach()) if _is_scalar(loss) else None
        self._factor_before_scale = _factor(loss) if _is_scalar(loss) else None

    def note(self, tensors: Any) -> None:
        """Backward was called on this."""
        loss = tensors[0] if isinstance(tensors, Sequence) and len(tensors) == 1 else tensors
        if not _is_scalar(loss):
            return
        if self._scaled is not None and self._scaled[0]() is loss:
            factor, loss = self._factor_before_scale, self._scaled[1]
        else:
            factor, loss = _factor(loss), loss.detach()
        self._scaled = None
        self._losses.append(loss if on_device(loss) else loss.item())
        self._factors.append(factor)

    def drop(self) -> None:
        """They belong to another optimizer's step."""
        self._losses, self._factors = [], []

    def take(self) -> tuple[list[Any], float]:
        """The losses of the step and what their sum is to be multiplied by."""
        losses, factors = self._losses, self._factors
        self.drop()
        self._most = max(self._most, len(losses))
        divided = self.summed or all(
            factor is not None and abs(factor * self._most - 1) < _TOLERANCE for factor in factors
        )
        return losses, 1.0 if divided or not losses else 1.0 / len(losses)


def _is_scalar(value: Any) -> bool:
    numel = getattr(value, "numel", None)
    return callable(numel) and numel() == 1


def _factor(loss: Any) -> float | None:
    """By which plain number the last operation has multiplied; None for any other operation."""
    node = getattr(loss, "grad_fn", None)
    name = node.name() if node is not None else ""
    if name not in ("DivBackward0", "MulBackward0"):
        return None
    other = getattr(node, "_saved_other", None)
    # A plain number becomes a tensor of no dimension on the host, which asks no device.
    if other is None or on_device(other) or other.dim() or other.requires_grad:
        return None
    value = float(other)
    return value if name == "MulBackward0" else 1.0 / value if value else None
