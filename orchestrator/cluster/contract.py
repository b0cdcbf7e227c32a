"""What the supervisor asks of the ranks of a run, wherever they are. Imports no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.events import AttemptStarted, Event, ResourcesGranted


class WorkerGroup(Protocol):
    """The ranks of a run, wherever they are. One contract suite holds every implementation to this.

    ``acquire`` blocks until all nodes are held, or raises; ``cancelled`` is asked while waiting.
    ``poll`` never blocks for longer than a tick; after ``start`` it ends with exactly one
    ``AttemptEnded``. A failing attempt says ``RankLost`` first and stops its other ranks by itself.
    ``stop`` asks the ranks to end within ``grace_s`` and kills what is left; ``kill`` does not ask.
    ``close`` leaves nothing behind and may be called at any time, more than once.
    """

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted: ...

    def start(self, attempt: int) -> AttemptStarted: ...

    def poll(self) -> list[Event]: ...

    def stop(self, grace_s: float) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...
