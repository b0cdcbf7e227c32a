"""A node's writer: the process that puts staged checkpoints on the disk, and what it was asked for. Never
blocks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.agent.messages import FromWriter, WriterFreed, WriterHeld
from orchestrator.checkpoint import writer
from orchestrator.checkpoint.commits import Key, PartDurable, PartGivenUp, RankPart
from orchestrator.checkpoint.manifest import FilePart
from orchestrator.checkpoint.writer_messages import (
    ANSWERS,
    REQUESTS,
    Answer,
    Failed,
    Freed,
    Held,
    Request,
)
from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import Launcher, RankProcess
from orchestrator.rank.spec import RankSpec


@dataclass
class _Writing:
    """A rank's part of a checkpoint that the writer has been asked for; ``waiting`` are the requests open."""

    part: RankPart
    waiting: set[int]
    files: dict[str, FilePart] = field(default_factory=dict)
    seconds: float = 0.0


class NodeWriter:
    """Started like a rank, from the same zygote, with the first request; one that dies is started and asked
    again.

    ``env`` is what the zygote's key asks for.
    """

    def __init__(self, run: str, env: Mapping[str, str], log_path: Path) -> None:
        self.process: RankProcess | None = None
        self._run = run
        self._env = dict(env)
        self._log_path = log_path
        self._pipes: tuple[int, int] | None = None
        self._lent: tuple[int, int] = (-1, -1)
        self._partial = b""
        self._requests: dict[int, Request] = {}
        self._writing: list[_Writing] = []
        self._next_id = 0

    def write(self, part: RankPart, requests: Iterable[Request], launcher: Launcher) -> None:
        """Have a rank's part of a checkpoint written; the requests get their numbers here."""
        self._writing.append(_Writing(part, {self._ask(one, launcher) for one in requests}))

    def writes(self, rank: int, key: Key) -> bool:
        """Whether this rank's part has been asked for and is not on the disk yet."""
        return any((one.part.rank, one.part.key) == (rank, key) for one in self._writing)

    def poll(self, launcher: Launcher) -> list[FromWriter]:
        """What it said since the last call."""
        parts: list[FromWriter] = []
        for answer in self._answers():
            parts += self._heed(answer)
        if self.process is not None and self.process.poll() is not None:
            self.close()
        if self.process is None and self._requests:
            self._ask_again(launcher)
        return parts

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.close()
            self.process = None
        if self._pipes is not None:
            for fd in (*self._pipes, *self._lent):
                os.close(fd)
            self._pipes = None

    def _heed(self, answer: Answer) -> list[FromWriter]:
        if isinstance(answer, Held):
            return [WriterHeld(answer.reason)]
        if isinstance(answer, Freed):
            return [WriterFreed(answer.held_s)]
        request = self._requests.pop(answer.id, None)
        writing = next((one for one in self._writing if answer.id in one.waiting), None)
        if request is None or writing is None:
            return []
        if isinstance(answer, Failed):
            self._writing.remove(writing)
            return [PartGivenUp(writing.part, answer.reason)]
        writing.waiting.discard(answer.id)
        writing.files |= answer.files
        writing.seconds += answer.seconds
        if writing.waiting:
            return []
        self._writing.remove(writing)
        return [PartDurable(writing.part, writing.files, writing.seconds)]

    def _ask(self, request: Request, launcher: Launcher) -> int:
        self._next_id += 1
        self._requests[self._next_id] = replace(request, id=self._next_id)
        if self.process is None:
            self._ask_again(launcher)
        else:
            self._send(self._next_id)
        return self._next_id

    def _ask_again(self, launcher: Launcher) -> None:
        """Start a writer and ask it all that is open."""
        with contextlib.suppress(RankStartError):  # the zygote died too; the next attempt brings another
            self._start(launcher)
            for number in self._requests:
                self._send(number)

    def _send(self, number: int) -> None:
        assert self._pipes is not None
        os.write(self._pipes[0], REQUESTS.encode(self._requests[number]))

    def _start(self, launcher: Launcher) -> None:
        requests_read, requests_write = os.pipe2(os.O_CLOEXEC)
        answers_read, answers_write = os.pipe2(os.O_CLOEXEC)
        spec = RankSpec(
            rank=0,
            local_rank=0,
            world_size=1,
            title=f"orchestrator writer {self._run}",
            script=str(Path(writer.__file__).resolve()),
            args=[elsewhere(requests_read), elsewhere(answers_write)],
            cwd="/",
            env=self._env,
            log_path=str(self._log_path),
        )
        os.set_blocking(answers_read, False)
        self._pipes, self._partial = (requests_write, answers_read), b""
        self._lent = (requests_read, answers_write)  # the writer opens them by our number, some time from now
        try:
            self.process = launcher.start(spec)
        except RankStartError:
            self.close()
            raise

    def _answers(self) -> list[Answer]:
        lines: list[bytes] = []
        while self._pipes is not None:
            try:
                read = os.read(self._pipes[1], 1 << 16)
            except BlockingIOError:
                break
            *whole, self._partial = (self._partial + read).split(b"\n")
            lines += whole
        return [ANSWERS.decode(line) for line in lines]


def elsewhere(fd: int) -> str:
    """A path by which other processes of this node open what we hold."""
    return f"/proc/{os.getpid()}/fd/{fd}"
