"""What the daemon sees: the nodes of a cluster, and of each job its driver and its run."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.dispatch.facts import SeenNode as SeenNode
from orchestrator.dispatch.facts import Tally


@dataclass(frozen=True)
class DriverEnd:
    """How a driver process ended; there is none of one that was killed."""

    epoch: int
    code: int


@dataclass(frozen=True)
class RunSeen:
    """What the run's journal says. ``finished``: it has done what it was for; ``stopped_by`` names who asked
    its newest driver to stop, as the journal has it. ``nodes_left``: that driver has given its nodes back,
    and takes none any more."""

    tally: Tally = field(default_factory=Tally)
    finished: bool = False
    reason: str = ""
    stopped_by: str = ""
    nodes_left: bool = False


@dataclass(frozen=True)
class Presence:
    """A job's driver, as it is seen at one moment: ``epoch`` and ``pid`` of the one that is alive, how the
    newest ended, and the run. ``held``: one is there, though it may not be known which. ``stop_asked``: the
    one that is alive has been asked to stop, ``asked_s`` for how long at least. ``starting``: one was started
    by us that may not have got so far; ``died``: the one that we started for this epoch is gone, and never
    got so far. ``log`` is where its drivers say what they have to say."""

    epoch: int | None = None
    pid: int | None = None
    ended: DriverEnd | None = None
    run: RunSeen = field(default_factory=RunSeen)
    stop_asked: bool = False
    starting: bool = False
    held: bool = False
    died: bool = False
    log: str = ""
    asked_s: float = float("inf")  # by a clock that nobody sets

    @property
    def is_there(self) -> bool:
        """Whether a driver of the job may have its nodes."""
        return self.held or self.epoch is not None
