"""What can be decided, each with its reason in fields. Who shows it to people puts it into words."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from orchestrator.fleet.jobs import Placement
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World


class StartCause(StrEnum):
    QUOTA = "quota"  # within its team's own quota
    WORTH = "worth"  # by what it is worth, on GPUs that nobody's quota claims
    BACKFILL = "backfill"  # it ends before a job that is ahead of it can start


class StopCause(StrEnum):
    WORTH = "worth"  # who takes its GPUs is worth more, by more than the stop costs
    QUOTA = "quota"  # its GPUs were borrowed, and their owner wants them
    RESERVED = "reserved"
    NODE = "node"  # its nodes leave the pool
    BUDGET = "budget"  # its team's, of this month, is about to be spent


# A job that is stopped for one of these makes room for others, who pay for it.
FOR_OTHERS = frozenset({StopCause.WORTH, StopCause.QUOTA, StopCause.RESERVED})


class HoldCause(StrEnum):
    AHEAD = "ahead"  # others who are worth more have the GPUs
    PRICE = "price"  # to stop others for it would cost more than it gains
    PINNED = "pinned"  # those who have the GPUs must not be stopped now
    FRAGMENTED = "fragmented"  # enough GPUs are free, but not on so many nodes as its gang needs
    QUOTA = "quota"  # its team has borrowed as much as it may
    RESERVED = "reserved"  # it cannot be stopped and would still run when GPUs are kept for another, or leave
    BUDGET = "budget"  # its team's, of this month, is spent, or as good as
    CLAIMED = "claimed"  # what is left of that is needed by those of its team who are worth more, and run
    DEPENDS = "depends"
    TOO_LARGE = "too_large"  # for every pool that it may run in
    HELD = "held"


# Of those who wait for one of these nobody foresees when they start.
OF_MONEY = frozenset({HoldCause.BUDGET, HoldCause.CLAIMED})


@dataclass(frozen=True)
class Start:
    """``epoch`` is the job's with this start; it begins when those in ``after`` have left its nodes."""

    job: str
    epoch: int
    placement: Placement
    cause: StartCause
    worth: float  # dollars of delay avoided by a GPU-hour
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stop:
    """The job saves, leaves and queues again. The gain is that of all whom the stop lets start, each by its
    share of the GPUs."""

    job: str
    epoch: int
    cause: StopCause
    price_usd: float
    gain_usd: float
    for_jobs: tuple[str, ...]


@dataclass(frozen=True)
class Move:
    """The job saves, leaves, and starts again at once on other nodes: it makes room for another's gang. It is
    itself among those in ``after`` who have to leave."""

    job: str
    epoch: int
    placement: Placement
    price_usd: float
    gain_usd: float
    for_job: str
    after: tuple[str, ...] = ()


class Hold(NamedTuple):
    """The job waits. ``behind`` are those who have what it needs, the worthiest first and not all of them;
    ``gpus_missing`` is how many more of those it could have. A decision may have ten thousand of these, and a
    tuple is made in a fifth of the time of a dataclass."""

    job: str
    cause: HoldCause
    worth: float = 0.0
    behind: tuple[str, ...] = ()
    gpus_missing: int = 0
    price_usd: float = 0.0
    gain_usd: float = 0.0
    until_at: float | None = None  # where the time is known at which this cause ends


hold_of = functools.partial(tuple.__new__, Hold)  # of all its fields: in half of the time that Hold() takes

Decision = Start | Stop | Move | Hold


class Decide(Protocol):
    """What every policy is. Asked twice without an event in between, the second answer changes nothing."""

    def __call__(self, world: World, policy: Policy) -> tuple[Decision, ...]: ...
