"""A node's writer: the process that puts staged checkpoints on the disk, and what it was asked for. Never
blocks."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.agent.messages import Part
from orchestrator.checkpoint import writer
from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import Launcher, RankProcess
from orchestrator.rank.spec import RankSpec


@dataclass
class _Writing:
    """A rank's part of a checkpoint that the writer has been asked for; ``waiting`` are the requests open."""

    about: dict[str, Any]
    waiting: set[int]
    files: dict[str, Any] = field(default_factory=dict)
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
        self._requests: dict[int, dict[str, Any]] = {}
        self._writing: list[_Writing] = []
        self._next_id = 0

    def write(self, about: dict[str, Any], requests: Iterable[dict[str, Any]], launcher: Launcher) -> None:
        """Have a rank's part of a checkpoint written; ``about`` names it."""
        self._writing.append(_Writing(about, {self._ask(one, launcher) for one in requests}))

    def writes(self, about: Mapping[str, Any]) -> bool:
        """Whether that part has been asked for and is not on the disk yet."""
        return any(all(one.about[key] == value for key, value in about.items()) for one in self._writing)

    def poll(self, launcher: Launcher) -> list[Part]:
        """What it said since the last call."""
        parts: list[Part] = []
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

    def _heed(self, answer: Mapping[str, Any]) -> list[Part]:
        number = int(answer["id"])
        if answer["event"] in ("held", "freed"):
            return [{"kind": "snapshot_" + str(answer["event"]), **answer}]
        request = self._requests.pop(number, None)
        writing = next((one for one in self._writing if number in one.waiting), None)
        if request is None or writing is None:
            return []
        if answer["event"] == "failed":
            self._writing.remove(writing)
            return [{"kind": "unwritten", **writing.about, "reason": answer["reason"]}]
        writing.waiting.discard(number)
        writing.files |= {
            name: {**part, "rank": writing.about["rank"]} for name, part in answer["files"].items()
        }
        writing.seconds += answer["seconds"]
        if writing.waiting:
            return []
        self._writing.remove(writing)
        return [{"kind": "durable", **writing.about, "files": writing.files, "seconds": writing.seconds}]

    def _ask(self, request: dict[str, Any], launcher: Launcher) -> int:
        self._next_id += 1
        self._requests[self._next_id] = request
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
        os.write(self._pipes[0], json.dumps({"id": number, **self._requests[number]}).encode() + b"\n")

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

    def _answers(self) -> list[dict[str, Any]]:
        lines: list[bytes] = []
        while self._pipes is not None:
            try:
                read = os.read(self._pipes[1], 1 << 16)
            except BlockingIOError:
                break
            *whole, self._partial = (self._partial + read).split(b"\n")
            lines += whole
        return [json.loads(line) for line in lines]


def elsewhere(fd: int) -> str:
    """A path by which other processes of this node open what we hold."""
    return f"/proc/{os.getpid()}/fd/{fd}"
