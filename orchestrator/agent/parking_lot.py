"""Slots that outlive the agents which have made them: whose they are, how long they stay, what makes room.

A node's keeper has a duplicate of each slot's descriptor, so that the memory behind it stays when the agent
is gone, however it went. Nothing of it has a name: with the keeper it is gone too.

==========================  =====================================================================
slots of a run that         stay
==========================  =====================================================================
has an agent here           whatever happens: its ranks write to them
has lost or stopped it      ``keep_s``, within ``most_bytes`` of all ended runs; less where a run
                            that starts, or the node itself, is short of memory: the run that
                            ended first gives way first
has finished                not at all
==========================  =====================================================================

Pure but for the descriptors: times are handed in. Not for several threads at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypedDict

from orchestrator.agent.parking_messages import Claim, RunParked

_BLOCK_BYTES = 512  # the unit of st_blocks


class ParkedReport(TypedDict):
    """What a run has parked on a node, as those are told who look at the cluster."""

    run: str  # its name
    run_dir: str  # its directory
    ranks: list[int]  # whose slots they are
    bytes: int  # that they take
    in_use: bool  # whether the run has an agent there, whose ranks write to them
    left_s: float | None  # after which they go; null while they are in use


@dataclass
class Parked:
    """The slots of one agent, by rank. ``owner`` is the agent's connection, None once it has ended, which was
    ``since_s``."""

    run: RunParked
    name: str
    keep_s: float
    most_bytes: int
    owner: int | None
    since_s: float = 0.0
    slots: dict[int, list[int]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """That the file systems have given them."""
        return sum(os.fstat(fd).st_blocks * _BLOCK_BYTES for fds in self.slots.values() for fd in fds)

    def close(self) -> None:
        """Let go of the slots."""
        for fds in self.slots.values():
            for fd in fds:
                os.close(fd)
        self.slots = {}


class ParkingLot:
    """All that is parked on a node."""

    def __init__(self) -> None:
        self._parked: list[Parked] = []

    def claim(self, claim: Claim, owner: int, has_room: Callable[[int], bool]) -> Parked | None:
        """What an agent has from here on, with the slots that are parked for its ranks.

        None while another agent of the run has some of them. ``has_room`` tells whether so many bytes more
        can be staged: until they can, what ended runs have parked goes.
        """
        ranks = set(claim.ranks)
        ours = [one for one in self._parked if one.run == claim.run and ranks & one.slots.keys()]
        if any(one.owner is not None for one in ours):
            return None
        new = Parked(claim.run, claim.name, claim.keep_s, claim.most_bytes, owner)
        for one in ours:
            new.slots |= {rank: one.slots.pop(rank) for rank in ranks & one.slots.keys()}
        self._parked = [one for one in self._parked if one.slots or one.owner is not None]
        self._parked.append(new)
        lacking = max(0, claim.needed_bytes - new.bytes)
        self.make_room(lambda: has_room(lacking))
        return new

    def others(self, claim: Claim) -> list[int]:
        """Ranks of the run that were not asked for and have slots here which no agent has."""
        free = [one for one in self._parked if one.run == claim.run and one.owner is None]
        return sorted({rank for one in free for rank in one.slots} - set(claim.ranks))

    def park(self, owner: int, rank: int, fds: list[int]) -> None:
        """Keep the slots that an agent has made for a rank."""
        mine = self._of(owner)
        if mine is None or rank in mine.slots:
            for fd in fds:
                os.close(fd)
            return
        mine.slots[rank] = fds

    def settle(self, owner: int) -> None:
        """Let go of what earlier agents of the same run have left, of any number of ranks."""
        mine = self._of(owner)
        if mine is None:
            return
        same = (mine.run.run_dir, mine.run.number)
        self._drop(one for one in self._ended if (one.run.run_dir, one.run.number) == same)

    def finish(self, owner: int) -> None:
        """Nobody goes on from what the agent has."""
        self.settle(owner)
        mine = self._of(owner)
        if mine is not None:
            self._drop([mine])

    def release(self, owner: int, now_s: float) -> None:
        """The agent has ended: what it had is parked from now on, as far as there is room for it."""
        mine = self._of(owner)
        if mine is None:
            return
        mine.owner, mine.since_s = None, now_s
        if not mine.slots or mine.keep_s <= 0 or mine.bytes > mine.most_bytes:
            self._drop([mine])
            return
        while sum(one.bytes for one in self._ended) > mine.most_bytes:
            self._drop(self._ended[:1])

    def make_room(self, enough: Callable[[], bool]) -> None:
        """Let go of what ended runs have parked, the first that ended first, until there is enough."""
        while self._ended and not enough():
            self._drop(self._ended[:1])

    def expire(self, now_s: float) -> None:
        """Let go of what has been parked for as long as its run has asked for."""
        self._drop([one for one in self._ended if now_s - one.since_s >= one.keep_s])

    @property
    def has_ended_runs(self) -> bool:
        """Whether anything is parked that no agent has."""
        return bool(self._ended)

    def report(self, now_s: float) -> list[ParkedReport]:
        """One entry for each agent that has slots, or had them."""
        return [
            {
                "run": one.name,
                "run_dir": one.run.run_dir,
                "ranks": sorted(one.slots),
                "bytes": one.bytes,
                "in_use": one.owner is not None,
                "left_s": None if one.owner is not None else max(0.0, one.keep_s - (now_s - one.since_s)),
            }
            for one in self._parked
            if one.slots
        ]

    def close(self) -> None:
        """Let go of everything."""
        self._drop(list(self._parked))

    @property
    def _ended(self) -> list[Parked]:
        return sorted((one for one in self._parked if one.owner is None), key=lambda one: one.since_s)

    def _of(self, owner: int) -> Parked | None:
        return next((one for one in self._parked if one.owner == owner), None)

    def _drop(self, gone: Iterable[Parked]) -> None:
        for one in list(gone):
            self._parked.remove(one)
            one.close()
