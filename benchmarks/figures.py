"""How figures of several rounds are told: medians, how far apart they lie, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def interleaved_rounds(count: int) -> str:
    return "one round" if count == 1 else f"{count} interleaved rounds"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """From the least to the most."""
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that `share` of them, between 0 and 1, do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median_interval(values: Sequence[float], wanted: float = 0.9) -> tuple[float, float, float]:
    """Where the median of the whole population lies: low, high, and how surely (0 to 1).

    Of independent rounds each falls below that median like a fair coin, whatever their distribution: so the
    k-th least and the k-th greatest of n enclose it unless fewer than k fell on one side. The narrowest pair
    that is sure enough is taken, and the widest there is when none is.
    """
    ordered, count = sorted(values), len(values)

    def sureness(k: int) -> float:
        return 1 - 2 * sum(math.comb(count, below) for below in range(k)) / 2**count

    k = max((k for k in range(1, (count + 1) // 2 + 1) if sureness(k) >= wanted), default=1)
    return ordered[k - 1], ordered[-k], max(0.0, sureness(k))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
