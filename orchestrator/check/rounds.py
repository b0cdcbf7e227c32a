"""Which nodes exchange data with which, round by round, until a slow node or link is named.

The search is a generator: it yields a round, which is groups of nodes that share no node and are measured at
once, and is sent the rate of each group; what it returns says which nodes and links are slow. First every
node is paired with two others. A node that is slow with each partner, and with one that is well, has a slow
cable; a pair that is slow though both are well with others has a slow link between them. Where all of that is
well, links between the nodes that have not been paired are looked for: in round k the nodes whose number has
bit k, and those that have not, exchange all to all. A slow link (a, b) slows the group that a and b are both
in, so the rounds spell the bits that their numbers share; the others differ, and the last round pairs just
the nodes whose numbers differ in these. For n nodes these are up to ceil(log2 n) + 3 rounds, which are never
more than 2 log2 n + 1. In a group of g nodes a link is seen if it is slower than a (g - 1)th of what the node
sends: so much of its data is meant for that link.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

Group = tuple[int, ...]
Round = tuple[Group, ...]
# Bytes a second that each node of a group sends; 0 where nothing came through.
Rates = Sequence[float]
Search = Generator[Round, Rates, "Paths"]

_PAIRINGS = 2
# Up to so many nodes all pairs take no more rounds than the search.
_FEW = 6
# So few that a slow node can be in most of the pairs of two rounds.
_VERY_FEW = 4
_DECIDING = 2
_SECOND_LOOKS = 2


@dataclass(frozen=True)
class Paths:
    """What the exchanges say. Rates are bytes a second that a node sends; ``usual`` is what the better
    quarter of all pairs reaches."""

    usual: float
    slow_nodes: dict[int, float] = field(default_factory=dict)  # by the best rate of its pairs
    slow_links: dict[tuple[int, int], float] = field(default_factory=dict)
    rounds: int = 0
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def slowest(self) -> float:
        """Of all pairs; 0 where there is none."""
        return min(self.pairs.values(), default=0.0)


def search(count: int, full: bool, least_share: float, expected: float | None = None) -> Search:
    """Look for slow nodes and links among ``count`` nodes.

    Slow is what does not reach ``least_share`` of what the better quarter of the pairs does, or of what is
    ``expected`` of the network. Without ``full`` a link is found only if it is among the pairs of the first
    rounds; a slow node always is.
    """
    seen = _Seen(least_share, expected)
    pairings = tournament(count)
    all_pairs = count <= _VERY_FEW or (full and count <= _FEW)
    for pairing in pairings if all_pairs else pairings[:_PAIRINGS]:
        yield from seen.look(pairing)
    for _ in range(_DECIDING):
        if not (deciding := seen.deciding(count)):
            break
        yield from seen.look(deciding)
    if full and not all_pairs and not seen.slow_pairs():
        yield from _unpaired_links(count, seen, pairings)
    return seen.paths()


def tournament(count: int) -> list[Round]:
    """Rounds in which every node meets every other once, by the circle method; with an odd number one node
    waits in each."""
    places = count + count % 2
    rounds: list[Round] = []
    for turn in range(places - 1):
        met = [(turn, places - 1)]
        met += [
            ((turn + step) % (places - 1), (turn - step) % (places - 1)) for step in range(1, places // 2)
        ]
        rounds.append(tuple(sorted(_pair(a, b) for a, b in met if max(a, b) < count)))
    return rounds


def _unpaired_links(count: int, seen: _Seen, pairings: Sequence[Round]) -> Generator[Round, Rates, None]:
    """Find a slow link among those that no pair has tried; with several of them, by trying all."""
    found: list[tuple[Round, list[bool]]] = []
    for bit in range(math.ceil(math.log2(count))):
        halves = [tuple(node for node in range(count) if node >> bit & 1 == side) for side in (0, 1)]
        groups = tuple(half for half in halves if len(half) > 1)
        rates = yield groups
        seen.rounds += 1
        found.append((groups, seen.slow_groups(rates)))
    candidates = tuple(
        (a, b)
        for a in range(count)
        for b in range(a + 1, count)
        if (a, b) not in seen.pairs
        and all([(a in group and b in group) for group in groups] == slow for groups, slow in found)
    )
    if candidates:
        yield from seen.look(candidates)
    if any(any(slow) for _, slow in found) and not seen.slow_pairs():  # no single link explains it
        for pairing in pairings[_PAIRINGS:]:
            yield from seen.look(pairing)


@dataclass
class _Seen:
    """The pairs that were measured, each by its best rate."""

    least_share: float
    expected: float | None
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    group_rates: list[float] = field(default_factory=list)
    rounds: int = 0

    def look(self, pairing: Round) -> Generator[Round, Rates, None]:
        """Measure pairs, and once and twice more those that seem slow: other work on a node passes, a fault
        does not."""
        self._take(pairing, (yield pairing))
        self.rounds += 1
        for _ in range(_SECOND_LOOKS):
            again = tuple(group for group in pairing if self._is_slow(self.pairs[_pair(*group)]))
            if again:
                self._take(again, (yield again))

    def _take(self, pairing: Round, rates: Rates) -> None:
        for group, rate in zip(pairing, rates, strict=True):
            pair = _pair(*group)
            self.pairs[pair] = max(rate, self.pairs.get(pair, 0.0))

    def usual(self) -> float:
        return _better_quarter(list(self.pairs.values()))

    def _is_slow(self, rate: float) -> bool:
        wanted = max(self.usual(), self.expected or 0.0)
        return rate < self.least_share * wanted or rate == 0.0

    def slow_pairs(self) -> list[tuple[int, int]]:
        return [pair for pair, rate in self.pairs.items() if self._is_slow(rate)]

    def slow_groups(self, rates: Rates) -> list[bool]:
        """Compared with all groups so far: of the two of a round one slow link slows one at the most."""
        self.group_rates += rates
        usual = _better_quarter(self.group_rates)
        return [rate < self.least_share * usual for rate in rates]

    def well(self) -> set[int]:
        """Nodes that are as fast as they should be with some other."""
        return {node for pair, rate in self.pairs.items() if not self._is_slow(rate) for node in pair}

    def _partners(self, node: int) -> set[int]:
        return {a + b - node for a, b in self.pairs if node in (a, b)}

    def _proved(self, node: int, well: set[int]) -> bool:
        """Slow with two, one of whom is well: neither the partners nor one link are to blame."""
        partners = self._partners(node)
        return len(partners) > 1 and bool(partners & well)

    def deciding(self, count: int) -> Round:
        """Pairs that tell a slow node from a slow link, or from one that has met slow nodes only."""
        well = self.well()
        free = sorted(well)
        pairs = []
        for node in range(count):
            if node in well or self._proved(node, well):
                continue
            other = next((one for one in free if one not in self._partners(node)), None)
            if other is not None:
                free.remove(other)
                pairs.append(_pair(node, other))
        return tuple(pairs)

    def paths(self) -> Paths:
        well = self.well()
        ill = {node for pair in self.pairs for node in pair} - well
        blamed = {node for node in ill if self._proved(node, well)}
        best = {node: max(rate for pair, rate in self.pairs.items() if node in pair) for node in blamed}
        links = {pair: self.pairs[pair] for pair in self.slow_pairs() if not blamed & set(pair)}
        return Paths(self.usual(), best, links, self.rounds, dict(self.pairs))


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _better_quarter(rates: Sequence[float]) -> float:
    """What the better quarter reaches: slow ones are in the others, also where they are most of them."""
    ordered = sorted(rates)
    return ordered[math.ceil(0.75 * (len(ordered) - 1))] if ordered else 0.0
