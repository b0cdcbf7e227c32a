"""A rank's tie to its agent: it carries messages, and when the agent is gone it kills the rank.

Two descriptors hold it. A socket carries messages to the agent as JSON lines; a thread blocks
reading it: what comes is the question for the rank's stacks, and at the end of the stream it
kills the rank's process group. A pipe that nobody ever
writes to makes the kernel do the same on its own, so that a rank which is stopped, or stuck in
native code with the interpreter lock held, goes too. The agent holds the only other ends.

The threads are raw ones, unknown to `threading`: they are not listed, not joined at exit, and
not copied into children of the rank.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import queue
import select
import signal
import socket
import time
from collections.abc import Callable

from orchestrator.rank.messages import Heartbeat, Message, encode

HEARTBEAT_S = 1.0
FLUSH_TIMEOUT_S = 5.0
_F_SETSIG = 10  # Linux; the fcntl module names it only from Python 3.12 on


# Makes the next message of what has come together meanwhile; None where there is nothing.
Source = Callable[[], Message | None]


class Link:
    """The sending end. `send` never blocks and may be called from any thread of the process.

    `phase`, `step` and `progress` are what a heartbeat tells: whoever works sets them. `at_heartbeat` is
    called every second and at the end.
    """

    def __init__(self, messages: socket.socket) -> None:
        self.phase = "start"
        self.phase_since = time.monotonic()
        self.step: int | None = None
        self.progress = 0
        self.at_heartbeat: Callable[[], None] | None = None
        self._socket = messages
        self._queue: queue.SimpleQueue[Message | Source | None] = queue.SimpleQueue()
        self._drained = _thread.allocate_lock()
        self._drained.acquire()
        self._open = True
        self._written = 0  # messages

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.phase_since = time.monotonic()

    def send(self, message: Message) -> None:
        """Queue a message."""
        if self._open:
            self._queue.put(message)

    @property
    def open(self) -> bool:
        """Whether what is sent is delivered: not in a child of the rank, nor at its end."""
        return self._open

    def offer(self, source: Source) -> None:
        """Have messages made when their turn comes, one after the other among the others, until there is
        none."""
        if self._open:
            self._queue.put(source)

    def close(self) -> None:
        """Deliver what is queued, waiting at most `FLUSH_TIMEOUT_S` for an agent that does not read; one that
        reads slowly is waited for."""
        if self._open:
            self._open = False
            self._queue.put(None)
            before = -1
            while before != self._written:
                before = self._written
                if self._drained.acquire(timeout=FLUSH_TIMEOUT_S):
                    return

    def _deliver(self) -> None:
        # Signals belong to the main thread, whose blocking calls they have to interrupt.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        next_beat = time.monotonic()
        while True:
            wait_s = next_beat - time.monotonic()
            try:
                item = self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait()
            except queue.Empty:
                next_beat = time.monotonic() + HEARTBEAT_S
                if self.at_heartbeat is not None:
                    self.at_heartbeat()
                # A late heartbeat says nothing: with the agent behind in its reading it is dropped.
                if not select.select([], [self._socket], [], 0)[1]:
                    continue
                item = self._heartbeat()
            if item is None:
                self._deliver_rest()
            if item is None or not self._pass_on(item):
                self._drained.release()
                return

    def _deliver_rest(self) -> None:
        """What sources still have when nothing more is sent."""
        with contextlib.suppress(queue.Empty):
            while (item := self._queue.get_nowait()) is None or self._pass_on(item):
                pass

    def _pass_on(self, item: Message | Source) -> bool:
        if not callable(item):
            return self._write(item)
        message = item()
        if message is None:
            return True
        self._queue.put(item)  # behind what others have sent meanwhile
        return self._write(message)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self.phase, round(time.monotonic() - self.phase_since, 3), self.step, self.progress)

    def _write(self, message: Message) -> bool:
        try:
            self._socket.sendall(encode(message))
        except OSError:  # the agent is gone, and the lifeline sees it as well
            return False
        self._written += 1
        return True


class RankLink(Link):
    """That of the rank itself. `answer` is called when the agent asks for the rank's stacks."""

    def __init__(self, messages: socket.socket, lifeline_fd: int) -> None:
        super().__init__(messages)
        self.answer: Callable[[], None] | None = None
        self._lifeline_fd = lifeline_fd

    def start(self) -> None:
        """Arm the lifeline and start the threads. The caller leads its own process group."""
        fcntl.fcntl(self._lifeline_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(self._lifeline_fd, _F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(self._lifeline_fd, fcntl.F_GETFL)
        fcntl.fcntl(self._lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([self._lifeline_fd], [], [], 0)[0]:  # the agent died before it was armed
            os.killpg(0, signal.SIGKILL)
        os.register_at_fork(after_in_child=self._forget)
        _thread.start_new_thread(self._watch, ())
        _thread.start_new_thread(self._deliver, ())

    def _forget(self) -> None:
        """In a child of the rank: the tie is the rank's alone."""
        if self._open:
            self._open = False
            self._socket.close()
            os.close(self._lifeline_fd)

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while self._socket.recv(4096):
                if self.answer is not None:
                    self.answer()
        except OSError:
            pass
        os.killpg(0, signal.SIGKILL)
