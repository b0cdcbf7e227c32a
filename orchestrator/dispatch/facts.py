"""What can happen to the queue: each fact is written down before anything follows from it.

Who says it, and when, is kept beside it. Times are seconds since the epoch. A fact of a start, a stop or an
end names the epoch of its job: one that comes too late says nothing of the start after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.fleet.decisions import StartCause, StopCause
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, StopPrice
from orchestrator.fleet.pools import CapacityChange, Pool, Reservation
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team


@dataclass(frozen=True)
class Tally:
    """What a run's own journal says of it, in all its attempts. ``price``: what a stop and the start after it
    take, as far as that has been measured; None where nothing of it has. ``load_s`` and ``memory_load_s``:
    what a load from the disk and one from memory have taken."""

    step: int = 0
    saved_step: int = 0
    saved: bool = False
    steps: int | None = None
    step_s: float | None = None
    gpu_s: float = 0.0
    usd: float = 0.0
    price: StopPrice | None = None
    load_s: float | None = None
    memory_load_s: float | None = None


@dataclass(frozen=True)
class SeenNode:
    """A node that is alive, as its Ray tells; ``cluster`` is the address of that, "" where `up` keeps it.
    ``avoided``: a check or a run has found it bad, so nothing more is started there."""

    node_id: str
    host: str
    cpus: float
    gpus: float
    labels: tuple[tuple[str, str], ...] = ()
    cluster: str = ""
    avoided: bool = False


@dataclass(frozen=True)
class Fact:
    """Base of all."""


@dataclass(frozen=True)
class Typed:
    """What was typed of a job beside its words, where what that means changes with the time, the fleet file
    or the queue: by this a job that is submitted again is known as the same."""

    job_class: str | None = None
    usd_per_hour: str | None = None
    deadline: str | None = None
    pools: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submitted(Fact):
    """``cwd`` is where the words of the job were typed: paths among them are meant from there. Of one that
    has ended and is submitted again its epochs, its time and what its run came to go on."""

    spec: JobSpec
    run_name: str
    cwd: str
    typed: Typed | None = None
    epoch: int = 0
    ran_s: float = 0.0
    tally: Tally = Tally()
    ran_in: tuple[tuple[str, float], ...] = ()  # pool, seconds there


@dataclass(frozen=True)
class Changed(Fact):
    """Somebody moved a job: another class, deadline, or pools."""

    spec: JobSpec


@dataclass(frozen=True)
class HeldBack(Fact):
    """It does not start until it is let go; where it runs, it saves and leaves."""

    job: str
    why: str


@dataclass(frozen=True)
class LetGo(Fact):
    job: str


@dataclass(frozen=True)
class CancelAsked(Fact):
    job: str


@dataclass(frozen=True)
class LeaderTook(Fact):
    """A daemon leads from here on, and none of an older epoch may write."""

    epoch: int
    host: str
    pid: int


@dataclass(frozen=True)
class StartMeant(Fact):
    """The job has its nodes in the books; its driver is started once those it waits for have left them."""

    job: str
    epoch: int
    placement: Placement
    cause: StartCause
    worth: float
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class StopMeant(Fact):
    """The job is asked to save and leave, for others who pay for it."""

    job: str
    epoch: int
    cause: StopCause
    price_usd: float
    gain_usd: float
    for_jobs: tuple[str, ...]


@dataclass(frozen=True)
class MoveMeant(Fact):
    """The job saves, leaves, and starts again elsewhere; ``epoch`` is that of the new start."""

    job: str
    epoch: int
    placement: Placement
    price_usd: float
    gain_usd: float
    for_job: str
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Began(Fact):
    """Its driver of that epoch is there."""

    job: str
    epoch: int


@dataclass(frozen=True)
class Lost(Fact):
    """Its driver is gone without a word: it is started again where it was, with a new ``epoch``."""

    job: str
    epoch: int
    tally: Tally


@dataclass(frozen=True)
class Left(Fact):
    """Its driver of that epoch is gone, and the job is not at its end. ``again_at``: not to be started before
    that."""

    job: str
    epoch: int
    tally: Tally
    because: str = ""
    again_at: float | None = None


@dataclass(frozen=True)
class NodesLeft(Fact):
    """Who was to leave has given its nodes back; its driver of that epoch still has something to say
    elsewhere."""

    job: str
    epoch: int


@dataclass(frozen=True)
class Ended(Fact):
    job: str
    epoch: int
    state: JobState
    tally: Tally
    because: str = ""


@dataclass(frozen=True)
class Tallied(Fact):
    """What a run that goes on has come to, now and then: what its team has used is counted from it."""

    job: str
    tally: Tally


@dataclass(frozen=True)
class NodeBound(Fact):
    """A node of Ray has this number in a pool from here on."""

    pool: str
    number: int
    node_id: str
    host: str


@dataclass(frozen=True)
class NodeDrained(Fact):
    """Nothing starts on that host any more; ``off``: it does again."""

    host: str
    off: bool = False


@dataclass(frozen=True)
class Reserved(Fact):
    name: str
    reservation: Reservation


@dataclass(frozen=True)
class Unreserved(Fact):
    name: str


@dataclass(frozen=True)
class FleetSeen(Fact):
    """What the fleet file said when something was decided."""

    pools: tuple[Pool, ...]
    teams: tuple[Team, ...]
    policy: Policy
    changes: tuple[CapacityChange, ...] = ()  # all that it said, those that were past included


@dataclass(frozen=True)
class NodesSeen(Fact):
    """The nodes that were alive when something was decided from here on; None: no cluster answered. An
    earlier version wrote it."""

    nodes: tuple[SeenNode, ...] | None


@dataclass(frozen=True)
class Decided(Fact):
    """The ``decisions`` facts that follow were decided at once, upon what the journals of ``running`` jobs
    said then. An earlier version wrote it."""

    decisions: int
    running: tuple[tuple[str, Tally], ...]


@dataclass(frozen=True)
class Weighed(Fact):
    """The ``decisions`` facts that follow were decided at once, upon what the moment before had with these
    changes, and of a ``whole`` one upon these alone: with it what was decided can be decided again. ``fleet``
    None: what the fleet file says is the same. ``gone`` are nodes by cluster and id. ``steps`` has of each
    job that runs, in the order of their keys, by how many it is further, None where nobody knows; ``saves``,
    by the places in that order, by how many what is saved is further, and ``rest`` what else is known, of
    those of whom that has changed."""

    decisions: int
    whole: bool
    fleet: FleetSeen | None
    gone: tuple[tuple[str, str], ...]
    came: tuple[SeenNode, ...]
    steps: tuple[int | None, ...]
    saves: tuple[tuple[int, int], ...]
    rest: tuple[tuple[int, Tally], ...]


KINDS: dict[str, type[Fact]] = {kind.__name__: kind for kind in Fact.__subclasses__()}
# What decisions were made upon: it has no place in the books, and is forgotten after a while.
MOMENTS = (Weighed, Decided, FleetSeen, NodesSeen)
# What is said of no job, and has a place in the books.
AROUND = (LeaderTook, NodeBound, NodeDrained, Reserved, Unreserved)
