"""What the books hold: a job of the queue with what its daemon has to know of it, a node, a reservation,
what a team has used."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.dispatch.facts import Tally, Typed
from orchestrator.fleet.jobs import ENDED, Job, JobSpec, JobState
from orchestrator.fleet.pools import Reservation


@dataclass(frozen=True)
class Entry:
    """A job, and what is kept beside what a decision looks at. ``wanted`` is what it becomes once it has left
    where that is not the queue; ``losses`` counts drivers in a row that were lost without a new step."""

    job: Job
    cwd: str
    by: str = ""
    wanted: JobState | None = None
    losses: int = 0
    tally: Tally = field(default_factory=Tally)
    meant_at: float | None = None  # when the newest start or stop was decided
    # when the newest driver was meant: what the journal says of a stop or an end before that is another's
    driver_since: float = 0.0
    again_at: float | None = None
    ended_at: float | None = None
    because: str = ""  # of the newest end or leave
    cause: str = ""  # of the newest start or stop, a word of StartCause or StopCause
    for_jobs: tuple[str, ...] = ()  # whom the newest stop was for
    paid_usd: float = 0.0  # by its team, for stops of others
    typed: Typed | None = None  # beside its words, when it was submitted
    submitted: JobSpec | None = None  # as it was then, where it has been moved since
    pool: str = ""  # of the newest start
    ran_in: tuple[tuple[str, float], ...] = ()  # pool, seconds there in all attempts that have ended

    @property
    def key(self) -> str:
        return self.job.key

    @property
    def is_over(self) -> bool:
        return self.job.state in ENDED


@dataclass(frozen=True)
class NodeSlot:
    """Which node of Ray has a number in a pool."""

    pool: str
    number: int
    node_id: str
    host: str


@dataclass(frozen=True)
class NamedReservation:
    name: str
    reservation: Reservation


@dataclass(frozen=True)
class Leader:
    """The daemon that leads; the epoch of one that never was is 0."""

    epoch: int = 0
    host: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Used:
    """What a team has used, of which half is forgotten in a week."""

    team: str
    gpu_s: float
    at: float


@dataclass(frozen=True)
class MonthOf:
    """What a team has used, spent, and paid for stops of others in a month, as 2026-11."""

    team: str
    month: str
    gpu_s: float = 0.0
    usd: float = 0.0
    stops_usd: float = 0.0
