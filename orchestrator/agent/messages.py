"""Many ranks' words become one: the same fold on each node and then on the driver.

A *part* is a dict of JSON values with ``kind``, a ``ranks`` count and figures that fold without
regard to order, so that a node sends one message for its eight ranks, and the driver's loss does
not depend on which node answered first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

Part = dict[str, Any]
# Ranks are a step apart, or a few: what waits for longer is of ranks that say nothing.
MOST_WAITING = 1000
# What a rank whose probes have failed does not tell.
_OF_PROBES = ("step", "memory")


class Gather:
    """Waits until parts of the same kind and step cover ``expected`` ranks, then folds them into one.

    An older step that stayed incomplete is dropped once a newer one is whole: a rank that says
    nothing at one step must not make the gatherer grow.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._excused = 0
        self._waiting: dict[tuple[str, int], list[Part]] = {}  # in the order in which they began
        # ranks; counted anew, they would be n² for n nodes
        self._covered: Counter[tuple[str, int]] = Counter()

    def excuse(self) -> int:
        """One rank tells no more of its steps; how many still do. What it saves and loads it tells all the
        same."""
        self._excused = min(self.expected, self._excused + 1)
        return self.expected - self._excused

    def _needed(self, kind: str) -> int:
        return self.expected - (self._excused if kind in _OF_PROBES else 0)

    def add(self, part: Part) -> Part | None:
        """The folded part if this one completed it."""
        key = (str(part["kind"]), int(part["step"]))
        parts = self._waiting.setdefault(key, [])
        parts.append(part)
        self._covered[key] += part["ranks"]
        if self._covered[key] < self._needed(key[0]):
            if len(self._waiting) > MOST_WAITING:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest], self._covered[oldest]
            return None
        kind, step = key
        self._waiting = {k: v for k, v in self._waiting.items() if k[0] != kind or k[1] > step}
        self._covered = Counter({k: self._covered[k] for k in self._waiting})
        return FOLDS[kind](parts)


def step_part(message: Mapping[str, Any]) -> Part:
    """A rank's own step message as a part of one rank. ``slowest`` and ``own_sum_s`` (over the ranks) say how
    long ranks worked by themselves, None where one of them did not say so."""
    loss, own_s = message.get("loss"), message.get("own_s")
    return {
        "kind": "step",
        "step": message["step"],
        "ranks": 1,
        "losses": [] if loss is None else [loss],
        "lr": message.get("lr"),
        "grad_norm": message.get("grad_norm"),
        "skipped": bool(message.get("skipped")),
        "step_time_s": message["step_time_s"],
        "slowest": None if own_s is None else {"rank": message["rank"], "own_s": own_s},
        "own_sum_s": own_s,
    }


def checkpoint_part(message: Mapping[str, Any]) -> Part:
    """A rank's word that it saved or loaded, as a part of one rank."""
    return {
        "kind": "saved" if message["kind"] == "save" else "loaded",
        "step": message["step"],
        "ranks": 1,
        "tag": str(message["tag"]),
        "path": message["dir"],
        "seconds": message["seconds"],
        "staged": "snapshot" in message,
    }


def memory_part(message: Mapping[str, Any]) -> Part:
    """A rank's word on its memory, as a part of one rank; ``peak_bytes`` is None where it could not tell."""
    return {"kind": "memory", "step": message["step"], "ranks": 1, "peak_bytes": message["peak_bytes"]}


def fold_steps(parts: Sequence[Part]) -> Part:
    """Losses are summed exactly (``fsum``), so their order does not matter; the slowest rank counts."""
    losses = [loss for part in parts for loss in part["losses"]]
    slowest = [part["slowest"] for part in parts]
    known = None not in slowest
    return {
        "kind": "step",
        "step": parts[0]["step"],
        "ranks": sum(p["ranks"] for p in parts),
        "losses": sorted(losses),
        "lr": _greatest(p["lr"] for p in parts),
        "grad_norm": _greatest(p["grad_norm"] for p in parts),
        "skipped": any(p["skipped"] for p in parts),
        "step_time_s": max(p["step_time_s"] for p in parts),
        "slowest": max(slowest, key=lambda one: (one["own_s"], one["rank"])) if known else None,
        "own_sum_s": math.fsum(p["own_sum_s"] for p in parts) if known else None,
    }


def mean_loss(part: Part) -> float | None:
    """The mean of the ranks' losses, or None where no rank said one; infinite or NaN where one of them is, or
    where the sum is larger than a number can be."""
    losses = part["losses"]
    if not losses:
        return None
    try:
        return math.fsum(losses) / len(losses)
    except (OverflowError, ValueError):
        return sum(losses) / len(losses)


@overload
def shortened(value: float, digits: int) -> float: ...


@overload
def shortened(value: float | None, digits: int) -> float | None: ...


def shortened(value: float | None, digits: int) -> float | None:
    """To so many significant digits: a loss in 32 bits has seven, and a journal keeps millions of them."""
    return None if value is None else float(f"{value:.{digits}g}")


def fold_checkpoints(parts: Sequence[Part]) -> Part:
    """Training stood still as long as the slowest rank took."""
    folded = dict(parts[0])
    folded["ranks"] = sum(p["ranks"] for p in parts)
    folded["seconds"] = max(p["seconds"] for p in parts)
    return folded


def fold_memory(parts: Sequence[Part]) -> Part:
    """The fullest rank counts: it is the one that does not fit."""
    folded = dict(parts[0])
    folded["ranks"] = sum(p["ranks"] for p in parts)
    folded["peak_bytes"] = _greatest(p["peak_bytes"] for p in parts)
    return folded


FOLDS: dict[str, Callable[[Sequence[Part]], Part]] = {
    "step": fold_steps,
    "saved": fold_checkpoints,
    "loaded": fold_checkpoints,
    "memory": fold_memory,
}


def slowest_phase(phases: Iterable[str], order: Sequence[str]) -> str | None:
    """The phase that the rank furthest behind is in; unknown phases count as the last."""
    known = {name: index for index, name in enumerate(order)}
    return min(phases, key=lambda phase: known.get(phase, len(order)), default=None)


def _greatest(values: Iterable[Any]) -> Any:
    return max((v for v in values if v is not None), default=None)
