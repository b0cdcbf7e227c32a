"""A job of the queue: what was asked for, and where it stands.

::

    queued → starting → running → stopping → queued … → finished | failed | cancelled | over_budget
    held, until somebody or what it waits for lets it go

Times are seconds since the epoch and end in ``_at``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands. One that is starting has its nodes in the books, whether or not those who are to
    leave them have left."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OVER_BUDGET = "over_budget"
    HELD = "held"


HAS_NODES = frozenset({JobState.STARTING, JobState.RUNNING})
ENDED = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED, JobState.OVER_BUDGET})


@dataclass(frozen=True)
class PoolPlan:
    """What the planner says of a job in one pool that it may run in."""

    pool: str
    gpus: int  # the gang: all of them or none
    hours: float | None  # the planned time from its beginning to its end; None where nobody knows
    hours_error: float = 0.5  # standard deviation of the natural logarithm of actual / planned
    step_s: float | None = None
    usd: float | None = None
    load_s: float | None = None  # that a checkpoint takes from the disk; None where nobody knows its size
    memory_load_s: float | None = None  # and from the memory of the nodes that it was saved on
    park_s: float = 0.0  # for how long they keep it once the job has left


@dataclass(frozen=True)
class JobSpec:
    """What somebody asked for. ``key`` is the client's own: the same key twice is the same job."""

    key: str
    team: str
    plans: tuple[PoolPlan, ...]  # a plan for each pool that the job may run in
    owner: str = ""
    script: str = ""
    overrides: tuple[str, ...] = ()
    job_class: str = ""
    usd_per_hour: float = 1.0  # what an hour of delay costs
    rank: int = 0  # of a class that goes before all others: the higher goes first
    deadline_at: float | None = None
    penalty_usd: float = 0.0  # what is lost, once, if the deadline is missed
    budget_usd: float | None = None
    preemptible: bool = True
    depends_on: tuple[str, ...] = ()
    group: str = ""  # of the jobs that were submitted together, as the points of a sweep are


@dataclass(frozen=True)
class StopPrice:
    """The seconds that a stop and the start after it take, of all GPUs of the gang. ``load_s`` is from the
    disk, or from where the next start is known to load; ``memory_load_s`` from nodes that have it still."""

    stop_s: float = 1.0
    write_s: float = 0.0
    start_s: float = 2.0
    load_s: float = 0.0
    memory_load_s: float = 0.0


@dataclass(frozen=True)
class Placement:
    """The nodes of a gang, by their numbers in the pool, and how many GPUs of each."""

    pool: str
    nodes: tuple[int, ...]
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """A job and where it stands. ``epoch`` counts its starts: who acts for an older one is not listened
    to."""

    spec: JobSpec
    state: JobState
    submitted_at: float
    epoch: int = 0
    run_name: str = ""
    placement: Placement | None = None  # of what is starting, running or stopping
    leaving: Placement | None = None  # of what is moved: where it still is until it starts
    waits_for: tuple[str, ...] = ()  # of what is starting: who has to leave its nodes first
    started_at: float | None = None  # the latest start
    ran_s: float = 0.0  # in all attempts that have ended
    step: int = 0
    saved_step: int = 0  # of the newest committed checkpoint, or one that is parked in memory
    saved: bool = False  # whether there is one yet
    steps: int | None = None  # that there are to be
    step_s: float | None = None  # the median, measured
    step_s_in: str = ""  # the pool where it was; "" is any
    price: StopPrice = StopPrice()
    parked: Placement | None = None  # the nodes that have in memory what it goes on from
    parked_until: float | None = None  # when they let go of it
    spent_usd: float = 0.0
    preemptions: int = 0
    held_because: str = ""

    @property
    def key(self) -> str:
        return self.spec.key
