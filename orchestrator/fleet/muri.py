"""Three policies as the simulator of Muri runs them (Zhao et al., SIGCOMM 2022), quirks and all.

Its published rows are met to the digit, which shows that an engine of events counts as theirs does. The
quirks, none of which is in our own simulator:

- a job does as many whole iterations as fit into its duration, and takes 1.015 times as long for them;
- at each event, whoever's it is, every running job loses the seconds that its model needs for a start;
- the two policies that know durations place all jobs anew at each event, and moving is free; the third only
  counts GPUs, and moves who did not run behind who did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.trace import Arrivals, Bools, Floats, Ints, TraceJob, in_order

_NODES, _GPUS_PER_NODE = 8, 8
GPUS = _NODES * _GPUS_PER_NODE
_SLOWER = 1.015
_SAME = 1e-9  # of a time: events that are no further apart are one
_QUEUE_LIMITS_GPU_S = (3250, 7200)
_OTHER_MODEL_S = 10.0
# Seconds of a start, by GPUs and model: Rivendile/Muri, simulator/run_sim.py, overhead_dict.
_MODELS = ("vgg16", "vgg19", "resnet18", "shufflenet_v2_x1_0", "bert", "gpt2", "a2c", "dqn")
_START_S = {
    1: (7, 7, 4, 4, 10, 10, 38, 5),
    2: (7, 7, 5, 4, 10, 10, 39, 5),
    4: (8, 8, 5, 5, 10, 10, 39, 6),
    8: (9, 9, 7, 5, 10, 10, 46, 6),
    16: (9, 10, 7, 7, 10, 10, 46, 8),
    32: (10, 10, 7, 8, 10, 10, 46, 8),
}
# Milliseconds of an iteration, likewise: simulator/jobs.py, job_time_dict.
_ITERATION_MS = {
    1: (107, 109, 779, 798, 178, 426, 517, 490),
    2: (191, 205, 881, 850, 195, 464, 525, 495),
    4: (201, 212, 921, 886, 190, 433, 533, 505),
    8: (214, 226, 1010, 957, 192, 437, 555, 509),
    16: (332, 302, 1055, 1006, 244, 491, 567, 525),
    32: (336, 356, 1059, 1019, 260, 514, 585, 546),
}


@dataclass
class MuriOutcome:
    """``jct_s`` by job, in the order of their submission."""

    jct_s: Floats
    ran_s: Floats
    makespan_s: float
    preemptions: int
    lost: float  # the seconds of starts, as a share of the work


@dataclass
class _State:
    arrivals: Arrivals
    start_s: Floats
    left_s: Floats
    served_s: Floats
    running: Bools
    ended_at: Floats
    now: float = 0.0
    next_arrival: int = 0
    active: list[int] = field(default_factory=list)
    preemptions: int = 0
    lost_gpu_s: float = 0.0

    @staticmethod
    def of(jobs: Sequence[TraceJob]) -> _State:
        ordered = in_order(jobs)
        arrivals = Arrivals.of(ordered)
        count = len(ordered)
        start_s = np.array([_start_s(job) for job in ordered], float)
        return _State(
            arrivals,
            start_s,
            np.array([_work_s(job) for job in ordered], float),
            np.zeros(count),
            np.zeros(count, bool),
            np.full(count, math.nan),
        )

    def advance(self, jump_at: float = math.inf) -> tuple[list[int], list[int]]:
        """To the next event: who ended, and who arrived. A jump, which is nobody's arrival or end, comes
        before what is later than it."""
        runs = np.flatnonzero(self.running)
        ends = self.now + self.left_s[runs]
        end_at = float(ends.min()) if len(runs) else math.inf
        submit_s = self.arrivals.submit_s
        arrives_at = submit_s[self.next_arrival] if self.next_arrival < len(submit_s) else math.inf
        at = min(end_at, arrives_at)
        ended: list[int] = []
        arrived: list[int] = []
        if at > jump_at * (1 + _SAME):
            at = jump_at
        else:
            if end_at <= at * (1 + _SAME):
                ended = [int(job) for job in runs[ends <= end_at * (1 + _SAME)]]
            while self.next_arrival < len(submit_s) and submit_s[self.next_arrival] <= at * (1 + _SAME):
                arrived.append(self.next_arrival)
                self.next_arrival += 1
        passed = at - self.now
        self.running[ended] = False
        self.ended_at[ended] = at
        self.served_s[ended] += passed
        runs = np.flatnonzero(self.running)
        progress = np.maximum(passed - self.start_s[runs], 0.0)
        self.left_s[runs] -= progress
        self.lost_gpu_s += float(((passed - progress) * self.arrivals.gpus[runs]).sum())
        self.served_s[runs] += passed
        self.now = float(at)
        return ended, arrived

    def run_these(self, chosen: list[int]) -> None:
        before = self.running.copy()
        self.running[:] = False
        self.running[chosen] = True
        lost = before & ~self.running
        self.preemptions += int(lost.sum())

    def outcome(self) -> MuriOutcome:
        jct_s = self.ended_at - self.arrivals.submit_s
        work = float((self.arrivals.duration_s * self.arrivals.gpus).sum())
        lost = self.lost_gpu_s / work
        return MuriOutcome(jct_s, self.served_s, float(self.ended_at.max()), self.preemptions, lost)


def _start_s(job: TraceJob) -> float:
    if job.model not in _MODELS or job.gpus not in _START_S:
        return _OTHER_MODEL_S
    return _START_S[job.gpus][_MODELS.index(job.model)]


def _work_s(job: TraceJob) -> float:
    if job.model not in _MODELS or job.gpus not in _ITERATION_MS:
        return job.duration_s * _SLOWER
    iteration_ms = _ITERATION_MS[job.gpus][_MODELS.index(job.model)]
    return math.floor(job.duration_s * 1e3 / iteration_ms) * iteration_ms / 1e3 * _SLOWER


def shortest_first(jobs: Sequence[TraceJob], *, by_service: bool) -> MuriOutcome:
    """SRTF, and by what is left times GPUs SRSF."""
    state = _State.of(jobs)
    gpus = state.arrivals.gpus
    while state.active or state.next_arrival < len(gpus):
        ended, arrived = state.advance()
        for job in ended:
            state.active.remove(job)
        state.active += arrived
        active = np.array(state.active, int)
        key = state.left_s[active] * gpus[active] if by_service else state.left_s[active]
        state.active = [int(job) for job in active[np.argsort(key, kind="stable")]]
        state.run_these(_first_fit(state.active, gpus))
    return state.outcome()


def _first_fit(order: list[int], gpus: Ints) -> list[int]:
    free = [_GPUS_PER_NODE] * _NODES
    chosen = []
    for job in order:
        need = int(gpus[job])
        if need > _GPUS_PER_NODE:
            whole = [node for node in range(_NODES) if free[node] == _GPUS_PER_NODE]
            nodes = math.ceil(need / _GPUS_PER_NODE)
            if len(whole) < nodes:
                continue
            for node in whole[:nodes]:
                free[node] = 0
        else:
            node = next((node for node in range(_NODES) if free[node] >= need), -1)
            if node < 0:
                continue
            free[node] -= need
        chosen.append(job)
        if not any(free):
            break
    return chosen


def tiresias_l(jobs: Sequence[TraceJob]) -> MuriOutcome:
    """Least attained service in three queues: who has been served more than a limit moves to the next."""
    state = _State.of(jobs)
    gpus = state.arrivals.gpus
    queue_of = np.zeros(len(gpus), int)
    queues: list[list[int]] = [[] for _ in range(len(_QUEUE_LIMITS_GPU_S) + 1)]
    order: list[int] = []  # as they became active, which is the order in which they are looked at
    jump_at = math.inf
    while order or state.next_arrival < len(gpus):
        ended, arrived = state.advance(jump_at)
        for job in ended:
            order.remove(job)
            queues[queue_of[job]].remove(job)
        order += arrived
        queues[0] += arrived
        for job in order:
            queue = int(queue_of[job])
            if not state.running[job] or queue == len(_QUEUE_LIMITS_GPU_S):
                continue
            # Sums of spans may stop short of it by a rounding that the clock cannot make up for.
            if state.served_s[job] * gpus[job] >= _QUEUE_LIMITS_GPU_S[queue] * (1 - _SAME):
                queues[queue].remove(job)
                queue_of[job] = queue + 1
                queues[queue + 1].append(job)
        free, chosen = GPUS, []
        for job in (job for queued in queues for job in queued):
            if gpus[job] <= free:
                free -= int(gpus[job])
                chosen.append(job)
        state.run_these(chosen)
        for queued in queues:
            queued.sort(key=lambda job: not state.running[job])
        jump_at = _next_jump(state, chosen, queue_of)
    return state.outcome()


def _next_jump(state: _State, chosen: list[int], queue_of: Ints) -> float:
    gpus, served_s = state.arrivals.gpus, state.served_s
    jumps = [
        math.ceil(_QUEUE_LIMITS_GPU_S[queue_of[job]] / gpus[job]) - served_s[job] + state.now
        for job in chosen
        if queue_of[job] < len(_QUEUE_LIMITS_GPU_S)
    ]
    return float(min(jumps, default=math.inf))
