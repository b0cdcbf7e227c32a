"""Ranks that stand still in one way or another, watched as an agent and a driver would, without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.agent.hang_stacks import main_thread
from orchestrator.agent.look import Looks, Measured, measure
from orchestrator.agent.messages import Overdue, RankSeen, RanksOverdue, RanksSeen
from orchestrator.agent.watchdog import EXIT
from orchestrator.cluster.hangs import HangWatch
from orchestrator.events import Event, RankLost, StallNamed
from orchestrator.rank.launch.process import RankProcess
from orchestrator.rank.messages import PhaseBegun

Measure = Callable[[Iterable[int], int | None], Mapping[int, Measured]]

# What a script does before its ranks part: rank 1 does what the test is about, the others wait for it.
OPENING = """
import ctypes, fcntl, multiprocessing, os, select, socket, subprocess, sys, threading, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
import torch
import torch.distributed as dist

rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
pair, other = dist.new_group([0, 1]), dist.new_group([1, 2]) if dist.get_world_size() > 2 else None
for _ in range(3):
    dist.all_reduce(torch.zeros(4))

def listening():
    server = socket.create_server(("127.0.0.1", 0))
    globals().setdefault("servers", []).append(server)
    return server.getsockname()

def shape():
{shape}

print("up", flush=True)
if rank == 1:
    shape()
if rank == 2:
    threading.Event().wait()
dist.all_reduce(torch.zeros(4))
time.sleep(300)
"""

# The same where the others do not wait for rank 1, and leave.
ENDING = OPENING.replace(
    "    threading.Event().wait()\ndist.all_reduce(torch.zeros(4))\ntime.sleep(300)", "    pass"
)


@dataclass
class Watched:
    """One world of ranks of one node, none of which ever makes progress."""

    ranks: list[RankProcess]
    evidence_s: float
    after_s: float | None = None
    measure: Measure = measure
    events: list[Event] = field(default_factory=list)
    seen: list[RankSeen] = field(default_factory=list)
    survived: bool = False

    def __post_init__(self) -> None:
        self._looks = Looks(self.measure)
        self._leaving: set[int] = set()
        self._since_s = 0.0
        self._watch = HangWatch(1, ["n0"], self.evidence_s, self.after_s, self._ask)

    def poll(self) -> None:
        """As an agent's and a driver's tick."""
        now_s = time.monotonic()
        self._since_s = self._since_s or now_s
        found = self._looks.poll(now_s)
        if found is not None:
            texts, self.seen = found
            told = [
                replace(one, gpu="CPU core", stack=[str(frame) for frame in main_thread(texts[one.rank])])
                for one in self.seen
            ]
            self._watch.receive(0, RanksSeen(told))
        silent = Overdue(0, "step", 1, now_s - self._since_s, 0.0)
        alive = [one for one in self.ranks if one.poll() is None]
        left = sum(one.poll() == 0 for one in self.ranks)
        for one in alive:
            if any(isinstance(said, PhaseBegun) and said.phase == EXIT for said in one.messages()):
                self._leaving.add(one.spec.rank)
        self.events += self._watch.poll({0: RanksOverdue(True, [silent] if alive else [])}, 1, now_s, left)

    @property
    def watched_s(self) -> float:
        """How long it has been looked at."""
        return time.monotonic() - self._since_s if self.seen else 0.0

    @property
    def lost(self) -> RankLost | None:
        return next((event for event in self.events if isinstance(event, RankLost)), None)

    @property
    def named(self) -> StallNamed | None:
        return next((event for event in self.events if isinstance(event, StallNamed)), None)

    def _ask(self) -> None:
        alive = {one.spec.rank: one for one in self.ranks if one.poll() is None}
        self._looks.begin(alive, self._leaving)
