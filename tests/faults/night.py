"""One run of the soak: what strikes it and when, and how it is taken up again until it has finished."""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.events import RunEnded, Status, StepDone
from tests.faults.invariants import Told

MOST_DRIVERS = 12
# From one driver's start to its end, with all that lasts in between.
DRIVER_S = 600.0
# Of a driver that was asked to stop, stopped at once or killed.
STOPPED = (130, 143, 129, 138, -9, 137)
LOOK_S = 0.05
TEND_S = 2.0


@dataclass(frozen=True)
class Strike:
    """``seed`` is its own, so that what one strike chooses does not depend on what those before it came
    to."""

    step: int
    what: str
    seed: str


def planned(seed: str, kinds: Sequence[str], last_step: int) -> list[Strike]:
    """One to four strikes at steps of their own: the same ones for the same seed."""
    chance = random.Random(seed)
    count = chance.randint(1, 4)
    steps = sorted(chance.randint(1, last_step) for _ in range(count))
    return [Strike(step, chance.choice(kinds), f"{seed}/{number}") for number, step in enumerate(steps)]


@dataclass(frozen=True)
class Lasting:
    """A strike that goes on for ``seconds``. ``mended_first``: nobody takes a run up before it is over."""

    seconds: float
    end: Callable[[], None]
    mended_first: bool = True


class Interrupted(Exception):
    """Whoever watches the soak has asked it to stop."""


class Night(ABC):
    """From its start to its end, however many drivers that takes."""

    strikes: Mapping[str, Callable[[Any, random.Random], Lasting | None]]

    def __init__(self, name: str, plan: Sequence[Strike], stopping: threading.Event) -> None:
        self.name, self.plan, self.drivers = name, tuple(plan), 0
        self.struck: list[Strike] = []
        self._stopping = stopping
        self._lasting: list[tuple[float, Lasting]] = []
        self._tended_s = 0.0

    def go(self) -> None:
        """Raises AssertionError with what does not hold, :class:`Interrupted`."""
        try:
            self.begin()
            while not self._finished():
                assert self.drivers < MOST_DRIVERS, f"not finished by {MOST_DRIVERS} drivers"
                self.take_up()
            self._mend(0.0, also_later=True)
            self.holds()
        finally:
            self._mend(0.0, also_later=True)

    @property
    @abstractmethod
    def told(self) -> Told:
        """The run, as its last driver left it."""

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def take_up(self) -> None: ...

    @abstractmethod
    def alive(self) -> bool:
        """Whether its driver is."""

    @abstractmethod
    def hurry(self) -> None:
        """Nothing strikes it any more: its steps are not held back."""

    @abstractmethod
    def driver_ended(self) -> None:
        """What holds after every driver. :attr:`told` has its code from here on."""

    @abstractmethod
    def holds(self) -> None:
        """What holds of a run that has finished."""

    @abstractmethod
    def tend(self) -> None:
        """What people do beside it, every other second."""

    def _finished(self) -> bool:
        """Once its driver has ended; strike it until then."""
        self.drivers += 1
        deadline_s = time.monotonic() + DRIVER_S
        hurried = False
        while self.alive():
            assert time.monotonic() < deadline_s, f"driver {self.drivers} does not come to its end"
            self._look()
            if len(self.struck) == len(self.plan) and not hurried:
                self.hurry()
                hurried = True
            time.sleep(LOOK_S)
        self._mend(0.0)  # a process that is stopped does not leave
        self.driver_ended()
        ended = self.told.events()[-1] if self.told.events() else None
        if isinstance(ended, RunEnded) and ended.status is Status.FINISHED:
            return True
        assert self.told.code in STOPPED, f"exit code {self.told.code}\n{self.told.text}"
        return False

    def _look(self) -> None:
        if self._stopping.is_set():
            raise Interrupted
        now_s = time.monotonic()
        self._mend(now_s)
        if now_s >= self._tended_s + TEND_S:
            self.tend()
            self._tended_s = time.monotonic()
        strike = next(iter(self.plan[len(self.struck) :]), None)
        if strike is not None and self._done() >= strike.step:
            self.struck.append(strike)
            lasting = self.strikes[strike.what](self, random.Random(strike.seed))
            if lasting is not None:
                self._lasting.append((time.monotonic() + lasting.seconds, lasting))

    def _done(self) -> int:
        return max(
            (one.event.step for one in self.told.records() if isinstance(one.event, StepDone)), default=0
        )

    def _mend(self, now_s: float, also_later: bool = False) -> None:
        """What is over at that time, or, at 0, what nobody takes a run up with."""
        for one in list(self._lasting):
            until_s, lasting = one
            if also_later or (until_s <= now_s if now_s else lasting.mended_first):
                self._lasting.remove(one)
                lasting.end()
