"""How often a sink reads its journal and writes MLflow: one alone as it likes, many of one process in
turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

POLL_S = 0.1
# Looks of all runs of a process together, a second: each opens a journal, which takes 50 µs.
MOST_LOOKS_PER_S = 100.0
# Of a processor core, what calls to MLflow of all runs of a process together may take.
MOST_CORES = 0.5
# A run that waits keeps its place; one whose turn does not come for so long reads on meanwhile.
_WAIT_FOR_TURN_S = 10.0
_LONGEST_FLUSH_S = 60.0


class Pace(Protocol):
    """What a :class:`~orchestrator.ledger.mlflow.sink.Sink` asks of who runs it."""

    def poll_s(self) -> float:
        """Until the next look into the journal."""

    def flush_s(self, wanted_s: float, worked_s: float) -> float:
        """Until MLflow is written again, where that took ``worked_s`` of a processor the last time."""

    def turn(self) -> AbstractContextManager[bool]:
        """Hold a turn to call MLflow; false where none was to be had, and it is to be tried again."""


class Alone:
    """The only one of its process."""

    def poll_s(self) -> float:
        return POLL_S

    def flush_s(self, wanted_s: float, worked_s: float) -> float:
        return wanted_s

    def turn(self) -> AbstractContextManager[bool]:
        return nullcontext(True)


class Turns:
    """So many calls to one MLflow at a time."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)

    def take(self) -> bool:
        return self._free.acquire(timeout=_WAIT_FOR_TURN_S)

    def give_back(self) -> None:
        self._free.release()


class Shared:
    """One of ``runs()`` that a process follows."""

    def __init__(self, runs: Callable[[], int], turns: Turns) -> None:
        self._runs, self._turns = runs, turns
        self._lock = threading.Lock()
        self._has_turn = False
        self._worked_before_s = 0.0

    def poll_s(self) -> float:
        return max(POLL_S, self._runs() / MOST_LOOKS_PER_S)

    def flush_s(self, wanted_s: float, worked_s: float) -> float:
        """Rarer with many runs, so that those of a machine cannot keep one another's process busy. What took
        long once, as the first time does, says nothing of the next."""
        usual_s, self._worked_before_s = min(worked_s, self._worked_before_s), worked_s
        return min(max(wanted_s, usual_s * self._runs() / MOST_CORES), max(wanted_s, _LONGEST_FLUSH_S))

    @contextmanager
    def turn(self) -> Iterator[bool]:
        if not self._turns.take():
            yield False
            return
        self._has_turn = True
        try:
            yield True
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Others may call now; also where the call that this turn was for does not come back."""
        with self._lock:
            if self._has_turn:
                self._has_turn = False
                self._turns.give_back()
