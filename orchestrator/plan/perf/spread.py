"""What a run's nodes wait for where they are in several domains of the network, whose uplinks carry less than
their nodes can send.

A domain of k nodes of the run has k nodes' share of its uplink: k times what a node sends, divided by the
oversubscription. A ring whose nodes follow each other domain by domain leaves each of them once, with what
one node sends, so it waits only where that is more than the share: with an oversubscription of 7, in a domain
with fewer than 7 nodes of the run. Numbered without regard to domains nearly every node's neighbour is
elsewhere, and the ring is as slow as the uplinks are. What each rank sends to each leaves by the share of
nodes elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class LevelSpread:
    """The domain of each node of a run at one level of the network, in the order of the ranks."""

    name: str
    oversubscription: float
    domains: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """Of all levels that are oversubscribed; without any, nothing waits."""

    levels: tuple[LevelSpread, ...] = ()

    def ring(self, nodes: int, stride: int = 1) -> float:
        """How many times longer rings of so many nodes take, `stride` nodes between two of one ring."""
        return max((_ring(level, nodes, stride) for level in self.levels), default=1.0)

    def exchange(self, nodes: int, stride: int = 1) -> float:
        """The same of what each of so many nodes sends to each."""
        return max((_exchange(level, nodes, stride) for level in self.levels), default=1.0)

    def send(self, apart: int) -> float:
        """The same of what each node sends to the one that is so many nodes on, and that one back."""
        return max((_send(level, apart) for level in self.levels), default=1.0)


def _slowdown(level: LevelSpread, leaving: Mapping[int, float]) -> float:
    """By the domain whose uplink is asked for most; `leaving` counts what it carries, in nodes."""
    here = Counter(level.domains)
    return max([1.0, *(flows * level.oversubscription / here[domain] for domain, flows in leaving.items())])


@lru_cache(maxsize=256)
def _ring(level: LevelSpread, nodes: int, stride: int) -> float:
    leaving: Counter[int] = Counter()
    for domains in _groups(level, nodes, stride):
        for domain, following in zip(domains, [*domains[1:], domains[0]], strict=True):
            leaving[domain] += domain != following
    return _slowdown(level, leaving)


@lru_cache(maxsize=256)
def _exchange(level: LevelSpread, nodes: int, stride: int) -> float:
    leaving: dict[int, float] = {}
    for domains in _groups(level, nodes, stride):
        for domain, count in Counter(domains).items():
            elsewhere = (len(domains) - count) / max(1, len(domains) - 1)
            leaving[domain] = leaving.get(domain, 0.0) + count * elsewhere
    return _slowdown(level, leaving)


@lru_cache(maxsize=256)
def _send(level: LevelSpread, apart: int) -> float:
    leaving: Counter[int] = Counter()
    for domain, following in zip(level.domains, level.domains[apart:], strict=False):
        leaving[domain] += domain != following
    return _slowdown(level, leaving)


def _groups(level: LevelSpread, nodes: int, stride: int) -> Iterator[Sequence[int]]:
    """The domains of the nodes of each group of `nodes`, which are `stride` apart."""
    block = nodes * stride
    for start in range(0, len(level.domains), block):
        for first in range(start, min(start + stride, len(level.domains))):
            yield level.domains[first : start + block : stride]
