"""The search for a slow node or link, on networks that are made up: always named, and nobody else."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.check.rounds import Group, Paths, Round, search, tournament

FAST, LEAST_SHARE = 1e9, 0.5
# Seen beside all the others of a group of 32, where a link carries a 31st of what its node sends.
SLOW = FAST / 200
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 33, 64)


def most_rounds(count: int) -> float:
    """What is promised: no search for one slow node or link takes more."""
    return 2 * math.log2(count) + 1 if count > 1 else 0


class Net:
    """A network whose nodes and links have rates, and whose measurements scatter."""

    def __init__(
        self, slow_nodes: dict[int, float], slow_links: dict[tuple[int, int], float], seed: int
    ) -> None:
        self.slow_nodes, self.slow_links = slow_nodes, slow_links
        self._random = random.Random(seed)

    def rate(self, group: Group) -> float:
        """Of an exchange all to all: the slowest node, or the slowest link with its share, sets the pace."""
        paces = [self.slow_nodes.get(node, FAST) for node in group]
        paces += [
            self.slow_links.get(pair, FAST) * (len(group) - 1)
            for pair in itertools.combinations(sorted(group), 2)
        ]
        return min(FAST, *paces) * self._random.uniform(0.75, 1.0)

    def searched(self, count: int, full: bool = True, expected: float | None = None) -> Paths:
        asked = search(count, full, LEAST_SHARE, expected)
        try:
            wanted: Round = next(asked)
            while True:
                nodes = [node for group in wanted for node in group]
                assert len(nodes) == len(set(nodes)), "groups of a round share no node"
                assert all(len(group) > 1 for group in wanted)
                wanted = asked.send([self.rate(group) for group in wanted])
        except StopIteration as ended:
            found: Paths = ended.value
            return found


@pytest.mark.parametrize("count", SIZES)
def test_a_network_that_is_well_is_called_so(count: int) -> None:
    for seed in range(5):
        found = Net({}, {}, seed).searched(count)
        assert (found.slow_nodes, found.slow_links) == ({}, {})
        assert found.rounds <= most_rounds(count)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("count", SIZES[1:])
def test_one_slow_node_is_named_whichever_it_is(count: int, full: bool) -> None:
    for node in range(count):
        found = Net({node: FAST / 4}, {}, seed=node).searched(count, full)
        assert (list(found.slow_nodes), found.slow_links) == ([node], {})
        assert found.rounds <= most_rounds(count)


@given(st.integers(2, 64), st.randoms(use_true_random=False), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_one_slow_link_is_named_whichever_it_is(count: int, chosen: random.Random, seed: int) -> None:
    a, b = sorted(chosen.sample(range(count), 2))
    found = Net({}, {(a, b): SLOW}, seed).searched(count, expected=FAST if count == 2 else None)
    assert (found.slow_nodes, list(found.slow_links)) == ({}, [(a, b)])
    assert found.rounds <= most_rounds(count)


@given(st.integers(9, 64), st.randoms(use_true_random=False), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_two_slow_nodes_are_both_named(count: int, chosen: random.Random, seed: int) -> None:
    slow = sorted(chosen.sample(range(count), 2))
    found = Net(dict.fromkeys(slow, FAST / 4), {}, seed).searched(count)
    assert (sorted(found.slow_nodes), found.slow_links) == (slow, {})


@given(st.integers(7, 64), st.randoms(use_true_random=False), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_of_several_slow_links_none_is_named_wrongly(count: int, chosen: random.Random, seed: int) -> None:
    every = list(itertools.combinations(range(count), 2))
    slow = dict.fromkeys(chosen.sample(every, 2), SLOW)
    found = Net({}, slow, seed).searched(count)
    assert not found.slow_nodes or all(sum(node in pair for pair in slow) > 1 for node in found.slow_nodes)
    assert set(found.slow_links) <= set(slow)
    assert found.slow_nodes or found.slow_links


def test_nothing_comes_through_to_one_node() -> None:
    found = Net({3: 0.0}, {}, 1).searched(8)
    assert found.slow_nodes == {3: 0.0}


def test_a_network_that_is_slow_everywhere_is_measured_by_what_is_expected() -> None:
    found = Net(dict.fromkeys(range(8), FAST / 10), {}, 1).searched(8, expected=FAST)
    assert found.slow_nodes == {}
    assert len(found.slow_links) == len(found.pairs) > 0
    assert found.usual < FAST / 9


def test_in_a_tournament_every_pair_meets_once() -> None:
    for count in range(2, 33):
        met = [group for pairing in tournament(count) for group in pairing]
        assert sorted(met) == list(itertools.combinations(range(count), 2))
        assert len(tournament(count)) == count - 1 + count % 2


def test_the_rounds_grow_with_the_logarithm() -> None:
    assert [Net({}, {}, 1).searched(count).rounds for count in (8, 64, 512)] == [5, 8, 11]
    assert all(len(tournament(count)) > most_rounds(count) for count in (16, 64, 512))
