"""Slots that outlive their agents: who gets them back, how long they stay, and what makes room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.agent.parking_lot import ParkingLot
from orchestrator.agent.parking_messages import Claim

MB = 1 << 20
CLAIM = Claim("/runs/a", "1", 2, "a", [0], 10 * MB, 60.0, "/dev/shm", 0)


class Park:
    """A lot, agents that come and go, and what is still open of what they have handed over."""

    def __init__(self) -> None:
        self.lot = ParkingLot()
        self.fds: dict[str, list[int]] = {}

    def agent(self, owner: int, run: str = "a", **about: Any) -> dict[int, list[int]]:
        """An agent starts for rank 0 of a run; what it gets back."""
        usual: dict[str, Any] = {
            "run_dir": f"/runs/{run}", "number": "1", "world_size": 2, "name": run, "ranks": [0],
            "most_bytes": 10 * MB, "keep_s": 60.0, "folder": "/dev/shm", "needed_bytes": 0,
        }  # fmt: skip
        has_room = about.pop("has_room", lambda _count: True)
        mine = self.lot.claim(Claim(**{**usual, **about}), owner, has_room)
        assert mine is not None
        return dict(mine.slots)

    def slot(self, owner: int, name: str, rank: int = 0, size: int = MB) -> None:
        fd = os.memfd_create(name)
        os.posix_fallocate(fd, 0, size)
        self.fds.setdefault(name, []).append(fd)
        self.lot.park(owner, rank, [fd])

    def parked(self, owner: int, name: str, now_s: float, size: int = MB, **about: Any) -> None:
        """An agent of a run of this name has come, has made a slot, and has gone."""
        self.agent(owner, name, **about)
        self.slot(owner, name, size=size)
        self.lot.release(owner, now_s)

    def open(self) -> list[str]:
        return sorted(name for name, fds in self.fds.items() if all(map(_is_open, fds)))


def _is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.fixture
def park() -> Iterator[Park]:
    one = Park()
    yield one
    one.lot.close()
    assert one.open() == []


def test_the_next_agent_of_a_run_has_its_slots_back(park: Park) -> None:
    assert park.agent(1) == {}
    park.slot(1, "a")
    park.lot.release(1, 10.0)
    assert [(one["run"], one["bytes"], one["in_use"], one["left_s"]) for one in park.lot.report(40.0)] == [
        ("a", MB, False, 30.0)
    ]
    assert park.agent(2) == {0: park.fds["a"]}
    park.lot.expire(1e9)
    assert park.open() == ["a"], "its ranks write to it"
    (told,) = park.lot.report(1e9)
    assert (told["in_use"], told["left_s"], told["ranks"]) == (True, None, [0])


@pytest.mark.parametrize("other", [{"run": "b"}, {"number": "2"}, {"world_size": 4}, {"ranks": [1]}])
def test_nobody_else_has(park: Park, other: dict[str, Any]) -> None:
    park.parked(1, "a", 10.0)
    assert park.agent(2, **other) == {}
    assert park.open() == ["a"]


def test_they_are_not_given_away_while_an_agent_has_them(park: Park) -> None:
    park.agent(1)
    park.slot(1, "a")
    assert park.lot.claim(CLAIM, 2, lambda _count: True) is None
    park.lot.release(1, 10.0)
    assert park.agent(2) == {0: park.fds["a"]}


def test_what_is_handed_over_twice_or_by_nobody_is_let_go(park: Park) -> None:
    park.agent(1)
    park.slot(1, "first")
    park.slot(1, "second")
    park.slot(7, "nobody's")
    assert park.open() == ["first"]


def test_they_go_when_their_time_is_over(park: Park) -> None:
    park.parked(1, "short", 10.0, keep_s=5.0)
    park.parked(2, "long", 10.0, keep_s=50.0)
    park.parked(3, "not at all", 10.0, keep_s=0.0)
    park.lot.expire(14.9)
    assert park.open() == ["long", "short"]
    park.lot.expire(15.0)
    assert park.open() == ["long"]
    assert park.lot.has_ended_runs
    park.lot.expire(60.0)
    assert not park.lot.has_ended_runs


def test_ended_runs_share_what_may_be_parked_and_the_first_that_ended_goes_first(park: Park) -> None:
    park.agent(9, "running")
    park.slot(9, "running", size=50 * MB)
    park.parked(1, "first", 10.0, size=4 * MB)
    park.parked(2, "second", 20.0, size=4 * MB)
    assert park.open() == ["first", "running", "second"], "what is in use does not count"
    park.parked(3, "third", 30.0, size=4 * MB)
    assert park.open() == ["running", "second", "third"]
    park.parked(4, "huge", 40.0, size=11 * MB)
    assert park.open() == ["running", "second", "third"], "it would not fit if all others went"


def test_a_run_that_starts_gets_the_room_that_it_needs(park: Park) -> None:
    park.parked(1, "first", 10.0)
    park.parked(2, "mine", 20.0)
    park.parked(3, "third", 30.0)
    park.agent(9, "running")
    park.slot(9, "running")
    asked: list[int] = []

    def has_room(count: int) -> bool:
        asked.append(count)
        return "first" not in park.open()

    back = park.agent(4, "mine", needed_bytes=3 * MB, has_room=has_room)
    assert back == {0: park.fds["mine"]}
    assert asked == [2 * MB, 2 * MB], "without what it has already"
    assert park.open() == ["mine", "running", "third"]
    park.lot.make_room(lambda: False)
    assert park.open() == ["mine", "running"], "never of a run that is there"


def test_nothing_of_a_run_that_has_finished_is_kept(park: Park) -> None:
    park.parked(1, "a", 10.0, ranks=[0])
    park.agent(2, "a", ranks=[1])
    park.slot(2, "of rank 1", rank=1)
    park.parked(3, "b", 10.0)
    park.lot.finish(2)
    park.lot.release(2, 20.0)
    assert park.open() == ["b"]


def test_once_a_run_has_begun_again_what_others_of_it_have_left_goes(park: Park) -> None:
    park.parked(1, "a", 10.0)
    park.parked(2, "b", 10.0)
    claim = replace(CLAIM, ranks=[1])
    park.lot.claim(claim, 3, lambda _count: True)
    assert park.lot.others(claim) == [0]
    assert park.open() == ["a", "b"]
    park.lot.settle(3)
    assert park.open() == ["b"]
    assert park.lot.others(claim) == []
