"""Policies for the simulator: ours, with and without durations, and those that it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.choose import Table, choose, fill
from orchestrator.fleet.left import Claims, left_of_prediction
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.shortlist import Shortlist
from orchestrator.fleet.simulate import Run
from orchestrator.fleet.trace import Floats, Ints
from orchestrator.fleet.worth import HOUR_S, delay_usd_per_hour, min_run_s, price_usd, worth

_NEVER: tuple[list[int], list[int], float] = ([], [], math.inf)
_QUEUES_GPU_S = np.array([3250.0, 7200.0])


def _queued(run: Run) -> Ints:
    return run.active[~run.running[run.active]]


@dataclass
class Fifo:
    """First come, first served: nobody passes."""

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        queued = _queued(run)
        sums = np.cumsum(run.arrivals.gpus[queued])
        return [], [int(row) for row in queued[: np.searchsorted(sums, run.free, side="right")]], math.inf


@dataclass
class Easy:
    """First come, first served, with backfilling: who ends before the first in the queue could start, or
    takes nothing from it, may pass (Lifka 1995). It knows each duration."""

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        queued, gpus, starts, free = _queued(run), run.arrivals.gpus, [], run.free
        if not len(queued) or free < gpus[queued].min():
            return _NEVER
        head = 0
        while head < len(queued) and gpus[queued[head]] <= free:
            free -= int(gpus[queued[head]])
            starts.append(int(queued[head]))
            head += 1
        if head == len(queued) or not free:
            return [], starts, math.inf
        runs = np.concatenate([run.active[run.running[run.active]], np.array(starts, int)])
        ends_at = run.now + run.work_s[runs] - run.done_now(runs)
        order = np.argsort(ends_at, kind="stable")
        sums = free + np.cumsum(gpus[runs[order]])
        place = int(np.searchsorted(sums, gpus[queued[head]]))
        shadow_at, spare = float(ends_at[order][place]), int(sums[place] - gpus[queued[head]])
        for row in queued[head + 1 :]:
            need = int(gpus[row])
            if need > free:
                continue
            if run.now + run.work_s[row] > shadow_at:
                if need > spare:
                    continue
                spare -= need
            free -= need
            starts.append(int(row))
            if not free:
                break
        return [], starts, math.inf


@dataclass
class Shortest:
    """Who has the least left, known to the second, preempts: SRTF, or with the GPUs counted SRSF."""

    by_service: bool

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        rows, gpus = run.active, run.arrivals.gpus
        if run.running[rows].all():
            return _NEVER
        key = run.work_s[rows] - run.done_now(rows)
        if self.by_service:
            key = key * gpus[rows]
        return _exactly(run, rows[np.argsort(key, kind="stable")])


@dataclass
class TiresiasL:
    """Least attained service in three queues (Gu et al. 2019): it knows no duration. As in its authors'
    simulator, who runs stays ahead of who waits in the same queue."""

    _place: dict[int, int] = field(default_factory=dict)
    _queue: dict[int, int] = field(default_factory=dict)
    _last: int = 0

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        rows, gpus = run.active, run.arrivals.gpus
        served = run.done_now(rows) * gpus[rows]
        queue = np.searchsorted(_QUEUES_GPU_S, served + 1e-6, side="right")
        for row, new in zip(rows.tolist(), queue.tolist(), strict=True):
            if self._queue.get(row) != new:
                self._queue[row] = new
                self._to_end(row)
        place = np.array([self._place[row] for row in rows.tolist()])
        order = rows[np.lexsort((place, queue))]
        stops, starts, _ = _exactly(run, order)
        leaves = set(stops)
        stays = set(starts) | {int(row) for row in order[run.running[order]] if int(row) not in leaves}
        for row in order.tolist():
            if row not in stays:
                self._to_end(row)
        return stops, starts, _next_mark(run, np.array(sorted(stays), int), _QUEUES_GPU_S)

    def _to_end(self, row: int) -> None:
        self._last += 1
        self._place[row] = self._last


def _next_mark(run: Run, rows: Ints, marks: Floats) -> float:
    """When the first of these will have had so much service that its queue changes."""
    gpus = run.arrivals.gpus[rows]
    served = run.done_now(rows) * gpus
    mark = np.append(marks, math.inf)[np.searchsorted(marks, served + 1e-6, side="right")]
    from_s = np.where(
        run.running[rows],
        np.maximum(run.counts_from[rows], run.now),
        run.now + np.where(run.starts[rows] > 0, run.restart_s, 0.0),
    )
    return float(np.min(from_s + (mark - served) / gpus, initial=math.inf))


def _exactly(run: Run, order: Ints) -> tuple[list[int], list[int], float]:
    chosen = fill(run.arrivals.gpus[order], run.gpus)
    running = run.running[order]
    return (
        [int(row) for row in order[running & ~chosen]],
        [int(row) for row in order[chosen & ~running]],
        math.inf,
    )


@dataclass
class Ours:
    """The policy of the fleet. ``predicted_s`` is what was predicted at submission, ``told_s`` what the steps
    say once a job runs; without them it goes by what has ended."""

    policy: Policy
    usd_per_hour: Floats
    predicted_s: Floats | None = None
    told_s: Floats | None = None
    sigma: float = 0.5
    told_sigma: float = 0.05
    usd_per_gpu_hour: float = 2.0  # a stop's price
    _ended: list[int] = field(default_factory=list)
    _claims: Claims | None = None
    _known: int = 0
    _short: Shortlist = field(default_factory=Shortlist)

    def decide(
        self, run: Run, arrived: Sequence[int], ended: Sequence[int]
    ) -> tuple[list[int], list[int], float]:
        self._ended += ended
        if run.unfinished == len(run.runs):
            return _NEVER
        if run.gpus_waited_for <= run.free:  # all start, whatever they are worth
            return [], _queued(run).tolist(), math.inf
        rows = self._short.rows(run, arrived, lambda waits: self.table(run, waits)[0].worth)
        table, pinned_until = self.table(run, rows)
        choice = choose(table, run.gpus)
        stops, starts = rows[choice.stops].tolist(), rows[choice.starts].tolist()
        self._short.stopped(stops)
        waits = ~table.running
        waits[choice.starts], waits[choice.stops] = False, True
        ask_at = math.inf
        if waits.any():
            new = np.zeros(len(rows), bool)
            new[choice.starts] = True
            pinned_until[new] = run.now + self._min_run_s(run)
            hidden = (table.pinned | new) & (table.worth < table.worth[waits].max())
            ask_at = float(np.min(pinned_until[hidden], initial=math.inf))
        if self.predicted_s is None and len(rows) > 1:
            ask_at = min(ask_at, self._next_fall(run, rows))
        return stops, starts, ask_at

    def table(self, run: Run, rows: Ints) -> tuple[Table, Floats]:
        """And until when each must not be stopped."""
        count, gpus, running, restarts = (
            len(rows),
            run.arrivals.gpus[rows],
            run.running[rows],
            run.starts[rows] > 0,
        )
        done_h, waited_s = run.done_now(rows) / HOUR_S, run.waited_now(rows)
        if self.predicted_s is None or self.told_s is None:
            left_h = self._claims_now(run).left_h(done_h * HOUR_S, gpus)
            predicted_h = np.full(count, math.inf)  # nobody can say that it has waited long for what it is
        else:
            predicted_h = np.where(restarts, self.told_s[rows], self.predicted_s[rows]) / HOUR_S
            left_h = left_of_prediction(predicted_h, done_h, self.told_sigma)  # all of it, before it starts
        delay = delay_usd_per_hour(self.usd_per_hour[rows], waited_s, predicted_h, None, left_h, self.policy)
        known = np.full(count, self.predicted_s is not None)
        start_h = np.where(restarts, run.restart_s / HOUR_S, 0.0)
        pinned_until = run.since[rows] + self._min_run_s(run)
        table = Table(
            worth(delay, gpus, left_h, start_h, running, known, self.policy),
            np.zeros(count, int),
            run.arrivals.submit_s[rows],
            gpus,
            running,
            running & (pinned_until > run.now + 1e-6),
            left_h,
            price_usd(gpus, run.restart_s, self.usd_per_gpu_hour),
            known,
        )
        return table, pinned_until

    def _min_run_s(self, run: Run) -> float:
        return float(min_run_s(run.restart_s, self.policy))

    def _claims_now(self, run: Run) -> Claims:
        if self._claims is None or len(self._ended) > 1.1 * self._known + 4:
            ended, gpus, done_s = np.array(self._ended, int), run.arrivals.gpus, run.done_now(run.active)
            going = run.active[done_s > 0.0]
            self._claims = Claims(run.done_s[ended], gpus[ended], done_s[done_s > 0.0], gpus[going])
            self._known = len(ended)
        return self._claims

    def _next_fall(self, run: Run, rows: Ints) -> float:
        runs = rows[run.running[rows]]
        done_s = run.done_now(runs)
        falls_s = self._claims_now(run).falls_after_s(done_s + 1e-6, run.arrivals.gpus[runs])
        return float(np.min(np.maximum(run.counts_from[runs], run.now) + falls_s - done_s, initial=math.inf))
