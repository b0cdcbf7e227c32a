"""What the queue answers to a program."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.dispatch.pools_now import PoolNow
from orchestrator.dispatch.queue_view import Outlook, QueuedJob
from orchestrator.dispatch.quotas import TeamMonth


@dataclass(frozen=True)
class Submission:
    """What has become of a job that was submitted."""

    key: str  # its own, and its run's name
    is_new: bool  # false: the same job was there already
    state: str  # a word of `JobState`
    submitted_unix_s: float  # when it was
    outlook: Outlook | None  # what comes of it; null of one that was there already, or not asked for


@dataclass(frozen=True)
class QueueNow:
    """The queue as it stands."""

    jobs: list[QueuedJob]  # that have not ended: who runs first, then who waits by worth
    ended: list[QueuedJob]  # the few that ended last
    pools: list[PoolNow]  # what there is to run on
    is_led: bool  # whether a daemon leads; else nothing starts
    months: list[TeamMonth] = field(default_factory=list)  # of teams that have a budget of the month


@dataclass(frozen=True)
class DaemonAsked:
    """The daemon of a queue, asked to end."""

    run_root: str  # whose queue it is
    pid: int | None  # its process; null where none leads


@dataclass(frozen=True)
class Heard:
    """A job of which somebody wants something."""

    key: str  # its own
    leaves_first: bool  # whether it has nodes, so that it saves and leaves them before it comes to that
    state: str  # a word of `JobState`, as it stands now
