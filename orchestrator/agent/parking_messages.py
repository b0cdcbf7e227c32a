"""What a node's agent and its keeper say to each other about parked slots: a type for each message.

Each is one packet of a UNIX socket, a line of JSON; descriptors of slots travel with the packet that names
their rank.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.message_lines import Lines

# A rank has two slots; the kernel takes 253 descriptors with a packet.
MOST_SLOTS = 8
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class RunParked:
    """Names a run as its keepers know it. ``number`` tells it from a later run in the same directory; slots
    of another number of ranks hold other parts of the model."""

    run_dir: str
    number: str
    world_size: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An agent has started for a run, and asks for the slots of these ranks.

    ``most_bytes`` is what the slots of ended runs may take on the node together, ``keep_s`` how long those of
    this run are kept once its agent has ended. ``needed_bytes`` in ``folder`` are what the agent is about to
    stage there, its slots that are parked among them.
    """

    run_dir: str
    number: str
    world_size: int
    name: str
    ranks: list[int]
    most_bytes: int
    keep_s: float
    folder: str
    needed_bytes: int

    @property
    def run(self) -> RunParked:
        """Whose slots they are."""
        return RunParked(self.run_dir, self.number, self.world_size)


@dataclass(frozen=True, slots=True)
class Claimed:
    """``ranks`` are those whose slots follow, each with a :class:`Slots`; ``others`` are ranks of the run
    that were not asked for and whose slots are parked here."""

    ranks: list[int]
    others: list[int]


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of a rank come with this: from the agent that has made them, or back to the one after it."""

    rank: int


@dataclass(frozen=True, slots=True)
class RoomWanted:
    """A rank of the agent found no room to stage in: what ended runs have parked is to go."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The run has begun with the slots that its agents have: others of it, of earlier agents, are let go."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has finished: nobody will go on from its slots."""


FromAgent = Claim | Slots | RoomWanted | Settled | Finished
FromKeeper = Claimed | Slots
_LINES: Lines[FromAgent | FromKeeper] = Lines(
    {
        "claim": Claim,
        "claimed": Claimed,
        "slots": Slots,
        "room_wanted": RoomWanted,
        "settled": Settled,
        "finished": Finished,
    },
    _MOST_BYTES,
)


def send(channel: socket.socket, message: FromAgent | FromKeeper, fds: Sequence[int] = ()) -> None:
    """Send one message with its descriptors. Raises OSError when the other side is gone."""
    if fds:
        socket.send_fds(channel, [_LINES.encode(message)], list(fds))
    else:
        channel.sendall(_LINES.encode(message))


def receive(channel: socket.socket) -> tuple[FromAgent | FromKeeper, list[int]] | None:
    """One message with its descriptors, which are the caller's from here on; None at the end.

    Raises OSError, and :class:`~orchestrator.papers.PaperError` for what is no message of ours.
    """
    packet, fds, _, _ = socket.recv_fds(channel, _MOST_BYTES, MOST_SLOTS, socket.MSG_CMSG_CLOEXEC)
    return (_LINES.decode(packet), fds) if packet else None


@contextlib.contextmanager
def by_number(folder: Path) -> Iterator[str]:
    """A short path of a folder: that of a socket may have 107 bytes, which a user's own folders exceed."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
