"""The keeper's side of parked slots: a socket by which agents of our user hand over slots and ask for them.

The socket lies in the keeper's own folder, which nobody else may enter: a name outside of all folders could
be reached from containers that share this machine's network, whose users have the same numbers as ours. Both
sides ask the kernel who the other one is all the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.agent.parking_lot import ParkedReport, ParkingLot
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
from orchestrator.checkpoint.free_space import memory_is_short, room_bytes
from orchestrator.papers import PaperError
from orchestrator.rank.launch.wire import peer_uid

_NAME = "parking"
_TICK_S = 1.0
# An agent that was killed has ended, and its connection with it, before Ray tells the driver; one that was
# given up for its silence is killed at the same moment.
_TAKEN_S = 3.0
_LOOK_S = 0.02


class Parking:
    """A node's parked slots, and the thread that listens for agents. ``address`` is the folder and name of
    its socket, "" where there can be none."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.monotonic, tick_s: float = _TICK_S
    ) -> None:
        self._lot = ParkingLot()
        self._clock = clock
        self._tick_s = tick_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._owners = itertools.count(1)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = ""
        with contextlib.suppress(OSError), by_number(folder) as there:  # no place for a socket: no parking
            self._socket.bind(f"{there}/{_NAME}")
            self._socket.listen()
            self.address = str(folder / _NAME)
        for target in (self._accept, self._tick) if self.address else ():
            threading.Thread(target=target, name="parked slots", daemon=True).start()

    def report(self) -> list[ParkedReport]:
        """What is parked here."""
        with self._lock:
            return self._lot.report(self._clock())

    def holds_for_later(self) -> bool:
        """Whether something is parked of a run that has no agent here."""
        with self._lock:
            return self._lot.has_ended_runs

    def close(self) -> None:
        """Let go of everything, and listen no more."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that listens
        self._socket.close()
        with self._lock:
            self._lot.close()

    def _tick(self) -> None:
        """Time passes, and other programs of the node need memory."""
        while not self._closed.wait(self._tick_s):
            with self._lock:
                self._lot.expire(self._clock())
                if self._lot.has_ended_runs:
                    self._lot.make_room(lambda: not memory_is_short())

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                channel, _ = self._socket.accept()
            except OSError:
                return
            if peer_uid(channel) != os.geteuid():
                channel.close()
                continue
            threading.Thread(target=self._serve, args=(channel,), name="parked slots", daemon=True).start()

    def _serve(self, channel: socket.socket) -> None:
        """One agent, until its end."""
        owner = next(self._owners)
        with channel:
            with contextlib.suppress(OSError, PaperError):
                while (heard := receive(channel)) is not None:
                    message, fds = heard
                    self._heed(owner, message, fds, channel)
            with self._lock:
                if not self._closed.is_set():
                    self._lot.release(owner, self._clock())

    def _heed(
        self, owner: int, message: FromAgent | FromKeeper, fds: list[int], channel: socket.socket
    ) -> None:
        if isinstance(message, Claim):
            self._give(owner, message, channel)
            return
        with self._lock:
            match message:
                case Slots(rank):
                    self._lot.park(owner, rank, fds)
                case RoomWanted():
                    self._lot.make_room(lambda: False)
                case Settled():
                    self._lot.settle(owner)
                case Finished():
                    self._lot.finish(owner)

    def _give(self, owner: int, claim: Claim, channel: socket.socket) -> None:
        """The slots that are there for the agent; none while another has them."""
        deadline_s = time.monotonic() + _TAKEN_S
        while True:
            with self._lock:
                mine = self._lot.claim(claim, owner, _room_in(claim.folder))
                if mine is not None:
                    send(channel, Claimed(sorted(mine.slots), self._lot.others(claim)))
                    for rank, fds in sorted(mine.slots.items()):
                        send(channel, Slots(rank), fds)
                    return
            if time.monotonic() > deadline_s:
                send(channel, Claimed([], []))
                return
            time.sleep(_LOOK_S)


def _room_in(folder: str) -> Callable[[int], bool]:
    def has_room(count: int) -> bool:
        try:
            return room_bytes(Path(folder)) >= count
        except OSError:  # nothing that is let go of would make room there
            return True

    return has_room
