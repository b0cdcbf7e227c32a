"""What it has taken a run to be stopped and to be started again, as its journal has it.

::

    StopRequested … SnapshotCommitted … ResourcesReleased      stop_s, write_s: the write is counted once
    ResourcesGranted … CheckpointLoaded … the first StepDone   start_s, load_s: likewise

Of each the newest counts; of a load from the disk and one from memory each by itself, as the next may be of
the other kind. Until somebody has stopped the run, the newest write is what a stop would wait for.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunResumed,
    RunStarted,
    SnapshotCommitted,
    StepDone,
    StopRequested,
)
from orchestrator.vocabulary import RestoreSource

_MEMORY = (RestoreSource.MEMORY, RestoreSource.PARKED)


@dataclass
class StopTimes:
    """Seconds; None: that has not happened yet."""

    stop_s: float | None = None
    write_s: float | None = None
    start_s: float | None = None
    load_s: float | None = None  # from the disk
    memory_load_s: float | None = None
    _asked_s: float | None = None
    _wrote_s: float = 0.0
    _granted_s: float | None = None
    _loaded_s: float = 0.0
    _from_memory: bool = False

    def fold(self, record: Record) -> None:
        """Take one record into account."""
        event, at_s = record.event, record.elapsed_s
        match event:
            case RunStarted() | RunResumed():
                self._asked_s = self._granted_s = None
            case ResourcesGranted():
                self._granted_s, self._loaded_s = at_s, 0.0
            case AttemptStarted():
                self._from_memory = event.restore_from in _MEMORY
            case CheckpointLoaded():
                self._loaded_s = event.seconds
                if self._from_memory:
                    self.memory_load_s = event.seconds
                else:
                    self.load_s = event.seconds
            case StepDone() if self._granted_s is not None:
                waited_s = at_s - self._granted_s - self._loaded_s - event.step_time_s
                self.start_s = max(waited_s, 0.0)
                self._granted_s = None
            case SnapshotCommitted():
                self.write_s = self._wrote_s = event.write_s
            case StopRequested():
                self._asked_s, self._wrote_s = at_s, 0.0
            case ResourcesReleased() if self._asked_s is not None:
                self.stop_s = max(at_s - self._asked_s - self._wrote_s, 0.0)
                self._asked_s = None
