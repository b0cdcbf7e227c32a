"""When no rank makes progress: who is named, who is left alone, and what ends an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.messages import Overdue, RankSeen, RanksOverdue, RanksSeen
from orchestrator.agent.waits import Wait
from orchestrator.cluster.hangs import SPINNING_AFTER_S, HangWatch
from orchestrator.events import Event, Fault, RankLost, StallNamed
from orchestrator.rank.messages import GroupSeen

EVIDENCE_S, LIMIT_S, AFTER_S = 120.0, 60.0, 3600.0


def rank(
    number: int, wait: Wait = Wait.LOCK, entered: int = 4, operation: str = "all_reduce", **about: Any
) -> Any:
    """As an agent tells of it: by default it waits with the others in a collective."""
    seen = RankSeen(
        rank=number, node="", gpu=f"GPU {number}", wait=wait,
        endable=wait in (Wait.LOCK, Wait.STOPPED, Wait.DISK, Wait.CALL), still_s=0.0, same_place_s=0.0,
        cpu_share=0.0, where="train.py:7 in step", groups={"0": GroupSeen(entered, operation)},
        stack=["train.py:7 in step"],
    )  # fmt: skip
    return replace(seen, **about)


WAITS = rank(0)


def behind(number: int = 1, wait: Wait = Wait.LOCK, **about: Any) -> Any:
    """A rank that the others wait for."""
    return rank(number, wait, entered=3, operation="", **about)


class Driver:
    """A :class:`HangWatch` over one node whose ranks are what the test says, looked at as often as it
    asks."""

    def __init__(self, *ranks: Any, after_s: float | None = None, still: bool = True, left: int = 0) -> None:
        self.ranks: Sequence[Any] = ranks
        self.left = left
        self.now_s = 1000.0
        self.still, self.frozen_since_s = still, self.now_s
        self.silent_since_s = self.now_s - LIMIT_S
        self.asked = 0
        self.events: list[Event] = []
        self.watch = HangWatch(2, ["n0"], EVIDENCE_S, after_s, self._ask)

    def _ask(self) -> None:
        self.asked += 1
        frozen_s = self.now_s - self.frozen_since_s
        seen = [
            replace(one, same_place_s=frozen_s, still_s=frozen_s if self.still and one.endable else 0.0)
            for one in self.ranks
        ]
        self.watch.receive(0, RanksSeen(seen))

    def later(self, seconds: float, progress: bool = False) -> list[Event]:
        """What follows in that time, a second at a time; it ends where the attempt does."""
        events: list[Event] = []
        for _ in range(int(seconds)):
            self.now_s += 1.0
            late = Overdue(0, "step", 7, self.now_s - self.silent_since_s, LIMIT_S)
            told = RanksOverdue(not progress, [] if progress else [late])
            events += self.watch.poll({0: told}, 7, self.now_s, self.left)
            if any(isinstance(event, RankLost) for event in events):
                break
        return events

    def goes_on(self) -> None:
        assert self.later(1, progress=True) == []
        self.silent_since_s = self.now_s + 1.0
        self.now_s += LIMIT_S
        self.frozen_since_s = self.now_s


def test_a_rank_is_named_within_two_minutes_and_ended_when_nothing_has_changed_for_two_more() -> None:
    driver = Driver(WAITS, behind())
    named, lost = driver.later(600)
    assert isinstance(named, StallNamed)
    assert (named.rank, named.where, named.doing) == (1, "train.py:7 in step", "waits for a lock")
    assert named.awaited == "rank 1 never entered the all_reduce that 1 other rank waits in"
    assert LIMIT_S < named.silent_s < 120.0
    assert isinstance(lost, RankLost)
    assert (lost.rank, lost.node, lost.fault, lost.attempt, lost.alike) == (1, "n0", Fault.HANG, 2, 1)
    assert LIMIT_S + EVIDENCE_S <= lost.detected_s < LIMIT_S + EVIDENCE_S + 15.0
    assert "rank 1 waits for a lock at train.py:7 in step" in (lost.error or "")


LEFT = [
    Wait.TIMER,
    Wait.CHILD,
    Wait.SOCKET,
    Wait.TERMINAL,
    Wait.FILE_LOCK,
    Wait.DEBUGGER,
    Wait.UNKNOWN,
    Wait.COMPUTES,
]


@pytest.mark.parametrize("wait", LEFT)
def test_what_may_come_back_is_named_once_and_left_for_hours(wait: Wait) -> None:
    (named,) = Driver(WAITS, behind(wait=wait)).later(10_000)
    assert (named.rank, named.doing) == (1, str(wait))  # type: ignore[attr-defined]


@pytest.mark.parametrize("wait", LEFT)
def test_it_is_given_up_after_a_time_of_the_users_own(wait: Wait) -> None:
    *_, last = Driver(WAITS, behind(wait=wait, cpu_share=wait is Wait.COMPUTES), after_s=AFTER_S).later(
        10_000
    )
    busy = wait in (Wait.COMPUTES, Wait.DEBUGGER)
    assert isinstance(last, RankLost) is not busy
    assert busy or last.detected_s == pytest.approx(AFTER_S, abs=15)  # type: ignore[attr-defined]


def test_a_rank_that_computes_in_one_place_is_named_again_as_spinning() -> None:
    named, spins = Driver(WAITS, behind(wait=Wait.COMPUTES, cpu_share=1.0)).later(3 * SPINNING_AFTER_S)
    assert named.doing == "computes"  # type: ignore[attr-defined]
    assert spins.doing.startswith("has computed in the same place for 18")  # type: ignore[attr-defined]


def test_a_lock_behind_which_something_works_is_left() -> None:
    (named,) = Driver(WAITS, behind(), still=False).later(10_000)
    assert isinstance(named, StallNamed)


def test_nobody_is_named_while_it_moves_about() -> None:
    driver = Driver(rank(0, Wait.COMPUTES, operation=""))
    for _ in range(500):
        driver.frozen_since_s = driver.now_s + 1.0
        assert driver.later(1) == []
    assert driver.asked > 10


def test_nobody_is_named_for_being_seen_twice_in_one_place() -> None:
    driver = Driver(rank(0, Wait.COMPUTES, operation=""))
    for second in range(600):
        if second % 18 == 0:
            driver.frozen_since_s = driver.now_s + 1.0
        assert driver.later(1) == []


def test_ranks_none_of_which_waits_for_another_are_left() -> None:
    (named,) = Driver(rank(0, operation=""), rank(1, operation="")).later(10_000)
    assert (named.rank, named.awaited) == (0, "")  # type: ignore[attr-defined]


def test_where_it_went_on_by_itself_it_is_given_twice_the_time_before_it_is_named_again() -> None:
    driver = Driver(WAITS, behind(wait=Wait.TIMER))
    silences = []
    for _ in range(4):
        (named,) = driver.later(2000)
        silences.append(named.silent_s)  # type: ignore[attr-defined]
        driver.goes_on()
    assert silences == sorted(silences)
    assert silences[3] >= 8 * LIMIT_S


def test_a_stopped_rank_ends_it_though_nobody_waits_for_it_yet() -> None:
    *_, lost = Driver(rank(0, operation=""), rank(1, Wait.STOPPED, operation="", stack=[], where="")).later(
        600
    )
    assert isinstance(lost, RankLost)
    assert (lost.error or "").endswith("rank 1 is stopped by a signal")


LAST = rank(0, operation="", groups={})


def test_a_rank_that_stands_still_when_all_others_have_ended_well_is_ended() -> None:
    named, lost = Driver(LAST, left=3).later(600)
    assert isinstance(named, StallNamed)
    assert named.awaited == "rank 0 is left behind by the 3 other ranks, which have ended with status 0"
    assert isinstance(lost, RankLost)
    assert (lost.rank, lost.fault, lost.alike) == (0, Fault.HANG, 1)
    assert LIMIT_S + EVIDENCE_S <= lost.detected_s < LIMIT_S + EVIDENCE_S + 15.0
    assert f"; {named.awaited}; rank 0 waits for a lock at train.py:7 in step" in (lost.error or "")


def test_of_several_that_are_left_behind_none_is_ended_before_all_are_proven_still() -> None:
    *_, lost = Driver(LAST, replace(LAST, rank=1), left=1).later(600)
    assert "each rank is left behind by the other rank, which has ended with status 0" in lost.error  # type: ignore[attr-defined]
    (named,) = Driver(LAST, replace(LAST, rank=1, wait=Wait.TIMER, endable=False), left=1).later(10_000)
    assert isinstance(named, StallNamed)


def test_a_rank_that_nobody_has_left_is_not_ended_for_being_the_only_one() -> None:
    (named,) = Driver(LAST).later(10_000)
    assert isinstance(named, StallNamed)


@pytest.mark.parametrize("wait", LEFT)
def test_the_last_one_is_left_where_something_may_come_back_to_it(wait: Wait) -> None:
    (named,) = Driver(replace(LAST, wait=wait, endable=False), left=3).later(10_000)
    assert isinstance(named, StallNamed)


@pytest.mark.parametrize("about", [{"listens": True}, {}], ids=["it serves others", "something works"])
def test_the_last_one_is_left_behind_whose_lock_there_is_work(about: dict[str, bool]) -> None:
    (named,) = Driver(replace(LAST, **about), still=bool(about), left=3).later(10_000)
    assert isinstance(named, StallNamed)


def test_all_in_one_collective_that_does_not_move_is_ended() -> None:
    *_, lost = Driver(rank(0), rank(1)).later(600)
    assert "each rank is in the same all_reduce as all ranks of its group" in lost.error  # type: ignore[attr-defined]


def test_a_node_that_does_not_take_part_proves_nothing() -> None:
    driver = Driver(WAITS, behind())
    driver.watch.nodes.append("n1")
    told = RanksOverdue(True, [Overdue(0, "step", 7, 99.0, LIMIT_S)])
    for second in range(1000):
        assert driver.watch.poll({0: told, 1: told}, 7, 1000.0 + second) == []
    assert driver.asked > 10


def test_a_rank_that_is_gone_is_told_by_itself() -> None:
    assert Driver(WAITS, behind(wait=Wait.GONE)).later(600) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Wait)),
            st.integers(0, 3),
            st.sampled_from(["", "all_reduce", "broadcast"]),
            st.booleans(),
            st.sampled_from([None, True, False]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_nothing_is_ended_as_long_as_one_awaited_rank_may_come_back(ranks: Any, known: bool) -> None:
    seen = [
        replace(rank(number, wait, entered, operation, endable=endable), entered=by_stack)
        for number, (wait, entered, operation, endable, by_stack) in enumerate(ranks)
    ]
    if not known:
        seen = [replace(one, groups={}) for one in seen]
    events = Driver(*seen).later(400)
    for event in events:
        if isinstance(event, RankLost):
            assert seen[event.rank].endable
    if not any(one.endable for one in seen):
        assert not any(isinstance(event, RankLost) for event in events)
