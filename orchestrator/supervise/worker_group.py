"""What the supervisor asks of the ranks of a run, wherever they are. Imports no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.events import AttemptStarted, Event, ResourcesGranted


class WorkerGroup(Protocol):
    """The ranks of a run, wherever they are. One contract suite holds every implementation to this.

    ``acquire`` blocks until all nodes are held, or raises; ``cancelled`` is asked while waiting.
    ``replace_lost``, between two attempts, holds others in place of nodes that were lost, and names those
    that the run did not have before or that had left since; asked again it names none that it has named.
    ``start`` does the same where that has not been done, and
    raises :class:`~orchestrator.errors.NodeLost` where a node goes meanwhile; started again it takes another.
    Checkpoints of ``restore_before`` and later are not gone on from, now or later, nor is what the script has
    saved by itself as ``put_aside``, with what belongs to it. ``poll`` never blocks for
    longer than a tick; after ``start`` it ends with exactly one ``AttemptEnded``. A failing attempt says
    ``RankLost`` first and stops its other ranks by itself; one that was told to ``abort`` fails without.
    ``NodeDraining`` ends nothing by itself: whoever hears it stops the attempt, and the next ``start`` leaves
    that node out. ``stop`` asks the ranks to end within ``grace_s`` and kills what is left; ``kill`` does not
    ask. ``close`` leaves nothing behind and may be called at any time, more than once.
    """

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted: ...

    def replace_lost(self, attempt: int) -> list[str]: ...

    def start(
        self,
        attempt: int,
        restore_before: int | None = None,
        skip_batches: Sequence[int] = (),
        put_aside: str = "",
    ) -> AttemptStarted: ...

    def poll(self) -> list[Event]: ...

    def stop(self, grace_s: float) -> None: ...

    def abort(self) -> None: ...

    def quarantine(self, node: str) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...
