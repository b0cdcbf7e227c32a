"""The ranks of one node, played by a test, and a clock that moves when it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pytest

from orchestrator.agent import memory_kills
from orchestrator.agent import ranks as node_ranks
from orchestrator.agent.messages import (
    Part,
    RankPhases,
    RanksOverdue,
)
from orchestrator.agent.ranks import NodeRanks
from orchestrator.rank.messages import (
    Message,
    PhaseEnded,
    StepTaken,
    Unknown,
)
from orchestrator.rank.spec import RankSpec
from tests.support.snapshot_world import small_assignment

_Kind = TypeVar("_Kind")
FLOOR_S, UNKNOWN_S, UNKILLABLE_S = 60.0, 1800.0, 15.0


class Rank:
    """A process that does what it is told to by the test. It takes no signal by itself."""

    def __init__(self, spec: RankSpec) -> None:
        self.spec = spec
        self.pid = 4_000_000 + spec.rank  # above the highest that Linux gives
        self.exit_reason: str | None = None
        self.status: int | None = None
        self.said: list[Message | Unknown] = []
        self.kills = 0
        self.progress = 0
        self.garbled = 0

    def messages(self) -> list[Message | Unknown]:
        said, self.said = self.said, []
        return said

    def poll(self) -> int | None:
        return self.status

    def kill(self) -> None:
        self.kills += 1

    def say(self, message: Message | Unknown) -> None:
        self.said.append(message)

    def step(self, step: int) -> None:
        self.say(StepTaken(step, step_time_s=1.0, local_time_s=0.5, loss=1.0, lr=0.1, grad_norm=1.0))


class Node:
    """A :class:`NodeRanks` whose clock moves only when told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.now_s = 1000.0
        self.killed_by_kernel = 0
        self.signals: list[tuple[int, int]] = []
        monkeypatch.setattr(node_ranks.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(node_ranks.os, "kill", lambda pid, number: self.signals.append((pid, number)))
        monkeypatch.setattr(memory_kills, "_kills", lambda: [0, self.killed_by_kernel])
        limits = {
            "hang_floor_s": FLOOR_S,
            "hang_timeout_cold_s": UNKNOWN_S,
            "sigkill_timeout_s": UNKILLABLE_S,
        }
        self.ranks: list[Rank] = []
        self.node = NodeRanks(small_assignment(folder, **limits, **changes))
        self._logs = folder / "run" / "logs"
        self.start_attempt(1)

    def start(self, spec: RankSpec) -> Rank:
        self.ranks.append(Rank(spec))
        return self.ranks[-1]

    def close(self) -> None:
        pass

    def start_attempt(self, attempt: int) -> None:
        self.node.check_gone(attempt)
        self.ranks.clear()
        specs = [
            RankSpec(
                rank,
                rank,
                2,
                "t",
                "s.py",
                [],
                "/",
                {},
                str(self._logs / f"attempt-{attempt}.rank-{rank}.log"),
            )
            for rank in range(2)
        ]
        self.node.start(specs, self)  # type: ignore[arg-type]

    def later(self, seconds: float) -> list[Part]:
        """What is told that much later, but for the phases, which are told at every poll."""
        self.now_s += seconds
        return [part for part in self.node.poll() if not isinstance(part, RankPhases)]

    def train(self, steps: int, step_s: float = 1.0) -> None:
        for rank in self.ranks:
            rank.say(PhaseEnded("initialize", 1.0))
        for step in range(1, steps + 1):
            for rank in self.ranks:
                rank.step(step)
            self.later(step_s)


def of(kind: type[_Kind], parts: list[Part]) -> list[_Kind]:
    return [part for part in parts if isinstance(part, kind)]


def overdue(parts: list[Part]) -> list[tuple[bool, list[int]]]:
    return [(part.all, [one.rank for one in part.ranks]) for part in of(RanksOverdue, parts)]
