"""The agent's side of parked slots: what it gets back from the node's keeper, and hands over."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from orchestrator.agent.assignment import Assignment
from orchestrator.agent.parking_messages import (
    Claim,
    Claimed,
    Finished,
    FromAgent,
    FromKeeper,
    RoomWanted,
    Settled,
    Slots,
    by_number,
    receive,
    send,
)
from orchestrator.agent.staging_dir import LEAST_BYTES, first_folder
from orchestrator.checkpoint.free_space import capacity_bytes
from orchestrator.papers import PaperError
from orchestrator.rank.launch.wire import peer_uid

# The keeper answers in milliseconds, but waits a little for an agent of the run that is about to end.
_ANSWER_S = 10.0
_BLOCK_BYTES = 512  # the unit of st_blocks


class ParkedSlots:
    """A connection to the keeper, for as long as the agent lives: with its end the slots are parked.

    ``taken`` are the slots that came back, by rank; their descriptors are the caller's. ``others`` are ranks
    of the run that have slots here and that this agent does not run. Where the keeper does not answer there
    is nothing of all that, and the run goes on as on a node without one.
    """

    def __init__(self, address: str, claim: Claim) -> None:
        self.taken: dict[int, list[int]] = {}
        self.others: list[int] = []
        self._channel: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_ANSWER_S)
        try:
            with by_number(Path(address).parent) as there:
                self._channel.connect(f"{there}/{Path(address).name}")
            if peer_uid(self._channel) != os.geteuid():
                raise PermissionError(f"{address} is another user's")
            self._ask(self._channel, claim)
        except (OSError, PaperError):
            self.close()
            for fd in (fd for fds in self.taken.values() for fd in fds):
                os.close(fd)
            self.taken, self.others = {}, []

    @classmethod
    def of(cls, assignment: Assignment, first_rank: int, address: str) -> ParkedSlots | None:
        """For the agent of these ranks; None where nothing is to be parked, or nobody is there to do it."""
        folder = first_folder(assignment.snapshot.dirs)
        if not address or folder is None or assignment.snapshot.park_s <= 0:
            return None
        try:
            most_bytes = most_parked_bytes(assignment, folder)
        except OSError:
            return None
        claim = Claim(
            run_dir=assignment.places.run_dir,
            number=assignment.number,
            world_size=assignment.ranks.world_size,
            name=assignment.run,
            ranks=list(range(first_rank, first_rank + assignment.ranks.per_node)),
            most_bytes=most_bytes,
            keep_s=assignment.snapshot.park_s,
            folder=str(folder),
            needed_bytes=assignment.snapshot_bytes or LEAST_BYTES,
        )
        return cls(address, claim)

    @property
    def taken_bytes(self) -> int:
        """That the slots which came back take."""
        fds = (fd for each in self.taken.values() for fd in each)
        return sum(os.fstat(fd).st_blocks * _BLOCK_BYTES for fd in fds)

    def park(self, rank: int, fds: list[int]) -> None:
        """Have the keeper keep the slots of a rank, too."""
        self._say(Slots(rank), fds)

    def want_room(self) -> None:
        """A rank found no room to stage in: the keeper lets go of what ended runs have parked."""
        self._say(RoomWanted())

    def settle(self) -> None:
        """The run has begun with what its agents have now."""
        self._say(Settled())

    def finish(self) -> None:
        """Nobody will go on from what is in memory."""
        self._say(Finished())

    def close(self) -> None:
        """The agent ends: the keeper goes on with what it has."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ask(self, channel: socket.socket, claim: Claim) -> None:
        send(channel, claim)
        answer, _ = _heard(channel)
        if not isinstance(answer, Claimed):
            raise PaperError("the keeper did not say what it has")
        self.others = answer.others
        for _ in answer.ranks:
            slots, fds = _heard(channel)
            if not isinstance(slots, Slots):
                raise PaperError("the keeper did not send what it has")
            self.taken[slots.rank] = fds

    def _say(self, message: FromAgent, fds: list[int] | None = None) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):  # it has ended: nothing is parked any more
                send(self._channel, message, fds or [])


def _heard(channel: socket.socket) -> tuple[FromAgent | FromKeeper, list[int]]:
    heard = receive(channel)
    if heard is None:
        raise ConnectionResetError("the keeper ended")
    return heard


def most_parked_bytes(assignment: Assignment, folder: Path) -> int:
    """What snapshots of ended runs may take on this node together. Raises OSError."""
    asked = assignment.snapshot.park_bytes
    return capacity_bytes(folder) // 2 if asked is None else asked
