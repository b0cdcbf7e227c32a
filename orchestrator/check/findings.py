"""What is wrong with a node, a GPU or a link, and what it would cost to train on regardless."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.check.reports import What
from orchestrator.text import bytes_in_words, figure, percent, seconds_in_words, with_prefix


class Grave(StrEnum):
    """What follows from a finding."""

    BAD = "bad"  # a run leaves the node out
    ODD = "odd"  # it is said, and training goes on there


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    node: str  # its name; of a link both, joined by " – "
    what: What  # which figure
    grave: Grave  # `bad`: a run leaves the node out; `odd`: it is only said
    measured: float | None  # in the figure's own unit; null where nothing could be measured
    expected: float | None  # at least, or at most; null where there is no figure for it
    against: str  # what the expectation comes from
    gpu: int | None = None  # its index on the node; null for the node or a link
    link: str = ""  # the NIC, or both nodes of a link; empty where it is about none
    detail: str = ""  # in words
    # share of the run's time that is lost where one trains on regardless; null where that is not known
    lost_share: float | None = None
    # the same of the run's cost, or of an hour of the cluster; null where share or price is not known
    lost_usd: float | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.node.split(LINK))

    @property
    def slow_share(self) -> float | None:
        """How much of what is expected is reached, where that slows a step."""
        if self.what not in SLOWING or not self.expected or self.measured is None:
            return None
        return min(1.0, self.measured / self.expected)


LINK = " – "
# What each step waits for.
SLOWING = frozenset({What.MATMUL, What.MEMORY, What.ALL_REDUCE, What.EXCHANGE, What.GIVEN})
_RATES = frozenset({What.MEMORY, What.ALL_REDUCE, What.DISK, What.SHM, What.EXCHANGE})
_ROOMS = frozenset({What.DISK_ROOM, What.SHM_ROOM})
_SHARES = frozenset({What.THROTTLED, What.GIVEN, What.PCIE})


def in_words(what: What, value: float | None) -> str:
    """A figure with its unit."""
    if value is None:
        return ""
    if what is What.MATMUL:
        return f"{with_prefix(value)}FLOP/s"
    if what in _RATES:
        return f"{bytes_in_words(value)}/s"
    if what in _ROOMS:
        return bytes_in_words(value)
    if what in _SHARES:
        return percent(value)
    if what is What.CLOCK:
        return f"{'-' if value < 0 else ''}{seconds_in_words(abs(value))}"
    return figure(value)
