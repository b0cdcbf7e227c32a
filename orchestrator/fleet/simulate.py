"""A trace run through a policy: events, and nothing that takes time between them.

The engine knows how long each job really takes; a policy is told only what it could know. A job that is
stopped has saved: it goes on from there, and each start after the first takes ``restart_s`` of its GPUs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from orchestrator.fleet.trace import Arrivals, Bools, Floats, Ints

_SAME_S = 1e-6


class Idle(StrEnum):
    """Why GPUs are free."""

    NOBODY = "nobody"  # nobody waits
    FITS = "fits"  # somebody waits who would have fitted: the policy keeps them
    GANG = "gang"  # each of those who wait needs more of them


class Moment(NamedTuple):
    """How things stand once an event has been decided about, until the next."""

    at: float
    gpus_in_use: int
    jobs_waiting: int
    gpus_waited_for: int


@dataclass
class Run:
    """What has happened so far. A column has a row for each job of the trace, by submission."""

    arrivals: Arrivals
    gpus: int
    restart_s: float
    work_s: Floats  # what each really takes: none but the engine and an oracle look at it
    now: float = 0.0
    done_s: Floats = field(init=False)
    since: Floats = field(init=False)  # when the latest start was
    counts_from: Floats = field(init=False)  # when it began to do new work
    running: Bools = field(init=False)
    starts: Ints = field(init=False)
    first_start: Floats = field(init=False)
    ended_at: Floats = field(init=False)
    ran_s: Floats = field(init=False)  # in attempts that have ended
    unfinished: int = 0  # jobs that have been submitted and have not ended
    runs: set[int] = field(default_factory=set)  # rows that run
    free: int = 0
    preemptions: int = 0
    lost_gpu_s: float = 0.0
    idle_gpu_s: dict[Idle, float] = field(default_factory=lambda: dict.fromkeys(Idle, 0.0))
    moments: list[Moment] = field(default_factory=list)  # after each event
    waiting: dict[int, int] = field(default_factory=dict)  # jobs, by the size of their gang
    _there: Ints = field(default_factory=lambda: np.empty(0, int))
    _news: list[range] = field(default_factory=list)  # who came since somebody asked for `active`
    _ends: list[tuple[float, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.arrivals.gpus)
        self.done_s, self.since, self.counts_from = np.zeros(count), np.zeros(count), np.zeros(count)
        self.running, self.starts = np.zeros(count, bool), np.zeros(count, int)
        self.first_start, self.ended_at = np.full(count, math.nan), np.full(count, math.nan)
        self.ran_s = np.zeros(count)
        self.free = self.gpus

    @property
    def active(self) -> Ints:
        """Rows of those who have been submitted and have not ended, in their order. It is put together only
        for who asks: of a long queue that takes longer than an event."""
        if len(self._there) != self.unfinished or self._news:
            news = [np.arange(rows.start, rows.stop) for rows in self._news]
            there = np.concatenate([self._there, *news])
            self._there, self._news = there[np.isnan(self.ended_at[there])], []
        return self._there

    @property
    def gpus_waited_for(self) -> int:
        return sum(gpus * count for gpus, count in self.waiting.items())

    def done_now(self, rows: Ints) -> Floats:
        more = np.where(self.running[rows], np.maximum(self.now - self.counts_from[rows], 0.0), 0.0)
        return self.done_s[rows] + more

    def waited_now(self, rows: Ints) -> Floats:
        """Since it was submitted, without the time in which it ran."""
        ran = self.ran_s[rows] + np.where(self.running[rows], self.now - self.since[rows], 0.0)
        return np.maximum(self.now - self.arrivals.submit_s[rows] - ran, 0.0)

    def start(self, row: int) -> None:
        again_s = self.restart_s if self.starts[row] else 0.0
        self.waiting[int(self.arrivals.gpus[row])] -= 1
        self.starts[row] += 1
        self.running[row] = True
        self.runs.add(row)
        self.since[row] = self.now
        self.counts_from[row] = self.now + again_s
        self.free -= int(self.arrivals.gpus[row])
        if self.starts[row] == 1:
            self.first_start[row] = self.now
        left_s = self.work_s[row] - self.done_s[row]
        heapq.heappush(self._ends, (self.now + again_s + left_s, row, int(self.starts[row])))

    def stop(self, row: int) -> None:
        self._leave(row)
        self._waits(row)
        self.preemptions += 1

    def _waits(self, row: int) -> None:
        gpus = int(self.arrivals.gpus[row])
        self.waiting[gpus] = self.waiting.get(gpus, 0) + 1

    def _leave(self, row: int) -> None:
        self.done_s[row] += max(self.now - self.counts_from[row], 0.0)
        self.lost_gpu_s += (min(self.now, self.counts_from[row]) - self.since[row]) * self.arrivals.gpus[row]
        self.ran_s[row] += self.now - self.since[row]
        self.running[row] = False
        self.runs.discard(row)
        self.free += int(self.arrivals.gpus[row])

    def arrive(self, rows: range) -> None:
        self._news.append(rows)
        self.unfinished += len(rows)
        for row in rows:
            self._waits(row)

    def go_on(self, at: float) -> None:
        """Time passes, and GPUs that are free idle."""
        if self.free:
            self.idle_gpu_s[self._why_idle()] += (at - self.now) * self.free
        self.now = at

    def _why_idle(self) -> Idle:
        sizes = [gpus for gpus, count in self.waiting.items() if count]
        if not sizes:
            return Idle.NOBODY
        return Idle.FITS if min(sizes) <= self.free else Idle.GANG

    def note(self) -> None:
        moment = Moment(self.now, self.gpus - self.free, sum(self.waiting.values()), self.gpus_waited_for)
        if self.moments and self.moments[-1].at == self.now:
            self.moments.pop()
        self.moments.append(moment)

    def next_end(self) -> float:
        while self._ends:
            at, row, start = self._ends[0]
            if self.running[row] and self.starts[row] == start:
                return at
            heapq.heappop(self._ends)
        return math.inf

    def end_those_due(self) -> list[int]:
        ended = []
        while self.next_end() <= self.now + _SAME_S:
            _, row, _ = heapq.heappop(self._ends)
            self._leave(row)
            self.ended_at[row] = self.now
            self.unfinished -= 1
            ended.append(row)
        return ended


class Queueing(Protocol):
    """A policy as the engine asks it: who stops, who starts, and when to ask again though nothing happens
    (infinite where only an event can change the answer)."""

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        """Stops and starts by their rows."""
        ...


def simulate(
    arrivals: Arrivals, gpus: int, queueing: Queueing, *, restart_s: float = 3.0, work_s: Floats | None = None
) -> Run:
    """Until the last job has ended. ``work_s``: what jobs really take where that is not their duration."""
    run = Run(arrivals, gpus, restart_s, arrivals.duration_s if work_s is None else work_s)
    submit_s = arrivals.submit_s
    count, next_row, ask_at = len(submit_s), 0, math.inf
    while next_row < count or run.unfinished:
        arrives_at = submit_s[next_row] if next_row < count else math.inf
        at = float(min(run.next_end(), arrives_at, ask_at))
        if math.isinf(at):
            raise ValueError("a policy has left jobs in the queue that nothing will start")
        run.go_on(at)
        ended = run.end_those_due()
        first = next_row
        while next_row < count and submit_s[next_row] <= run.now + _SAME_S:
            next_row += 1
        arrived = range(first, next_row)
        if next_row > first:
            run.arrive(arrived)
        stops, starts, ask_at = queueing.decide(run, arrived, ended)
        for row in stops:
            run.stop(row)
        for row in starts:
            run.start(row)
        run.note()
        if run.free < 0:
            raise ValueError("a policy has given out more GPUs than there are")
    return run
