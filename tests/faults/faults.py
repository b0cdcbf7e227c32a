"""Faults as sentences: ``fail(rank=1).at(step=13).by(SIGKILL)``.

A fault waits for its moment by following the journal of its run, finds its process by title below the run's
driver (or below the head of the cluster that these tests keep) and strikes. What it struck is on record, and
a run whose fault did not strike fails its test. Signals come from outside; what only the rank itself can do
to itself (``by("exception")``) is done by tests/support/scripts/pretrain_struck.py.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, Protocol

import psutil

from orchestrator.events import (
    AttemptStarted,
    Decided,
    Event,
    PhaseEntered,
    Record,
    SnapshotCommitted,
    StepDone,
)
from tests.support.processes import title

LOOK_S = 0.01
# Between two files of a checkpoint there are milliseconds.
LOOK_CLOSELY_S = 0.002
# Between the moment in the journal and the process being there under its name.
FIND_S = 5.0
TITLES = {
    "rank": "orchestrator rank {number}/",
    "writer": "orchestrator writer ",
    "zygote": "orchestrator zygote",
    "agent": "ray::NodeAgent",
    "raylet": "/raylet/raylet ",
    "gcs": "/gcs/gcs_server ",
    "sink": "orchestrator.ledger.mlflow.sink",
}


class Victim(Protocol):
    """What a fault must know of the run that it strikes."""

    name: str

    @property
    def folder(self) -> Path: ...

    @property
    def driver(self) -> psutil.Process: ...

    def alive(self) -> bool: ...

    def records(self) -> list[Record]: ...

    def news(self) -> list[Record]: ...

    def family(self) -> list[psutil.Process]: ...


@dataclass(frozen=True)
class Struck:
    """A process that was struck; ``record`` counts the journal's records of that moment."""

    title: str
    pid: int
    time_unix_s: float
    monotonic_s: float
    records: int


@dataclass(frozen=True)
class Moment:
    """A time in a run's life, and the words for it."""

    says: str
    come: Callable[[Victim], bool]
    look_s: float = LOOK_S


def told(says: str, true: Callable[[Sequence[Record]], bool]) -> Moment:
    """A moment that the journal tells of, since the driver that is alive took the run up."""
    return Moment(says, lambda run: true(run.news()))


def the_step(step: int, attempt: int | None = None) -> Moment:
    """A step is done, of whatever attempt or of this one."""

    def done(event: Event) -> bool:
        return isinstance(event, StepDone) and event.step >= step and attempt in (None, event.attempt)

    return told(f"at step {step}", lambda records: any(done(record.event) for record in records))


def the_phase(phase: str, attempt: int = 1) -> Moment:
    """The slowest rank is in this phase of its start; ``launch`` is before any rank is."""

    def entered(event: Event) -> bool:
        if phase == "launch":
            return isinstance(event, AttemptStarted) and event.attempt == attempt
        return isinstance(event, PhaseEntered) and (event.attempt, event.phase) == (attempt, phase)

    return told(
        f"in phase {phase} of attempt {attempt}", lambda records: any(entered(r.event) for r in records)
    )


def recovery(of: int = 1) -> Moment:
    """It is decided what follows from a fault, the ``of``-th, and no step has been done since."""
    return told(
        f"during recovery {of}", lambda records: sum(isinstance(r.event, Decided) for r in records) >= of
    )


def write_out(step: int | None = None) -> Moment:
    """The writer has begun with files of a checkpoint, of that step or any, and they have no name yet."""
    return Moment(f"in the write-out of step {step}", partial(_on_its_way, step, "*.pt"), LOOK_CLOSELY_S)


def commit(step: int | None = None) -> Moment:
    """All files of a checkpoint are there and it is about to get its name: its manifest is written.

    That takes milliseconds. Whoever does not see it in time, on a busy machine, strikes just after it.
    """

    def come(run: Victim) -> bool:
        news = [record.event for record in run.news()]
        done = any(isinstance(one, SnapshotCommitted) and step in (None, one.step) for one in news)
        return done or _on_its_way(step, "*manifest.json*", run)

    return Moment(f"in the commit of step {step}", come, LOOK_CLOSELY_S)


def _on_its_way(step: int | None, pattern: str, run: Victim) -> bool:
    if not any(isinstance(record.event, AttemptStarted) for record in run.news()):
        return False  # what an earlier driver left may still be there
    of = "*" if step is None else f"{step:06d}"
    return any((run.folder / "checkpoints" / ".attempts").glob(f"*-step-{of}/*/{pattern}"))


def event(kind: type[Event], **fields: Any) -> Moment:
    """The journal has such an event."""

    def is_it(one: Event) -> bool:
        return isinstance(one, kind) and all(getattr(one, name) == value for name, value in fields.items())

    return told(f"at {kind.__name__} {fields or ''}", lambda records: any(is_it(r.event) for r in records))


def both(one: Moment, other: Moment) -> Moment:
    """When both have come: a checkpoint is written behind the training, and on a busy machine steps later."""

    def come(run: Victim) -> bool:
        return one.come(run) and other.come(run)

    return Moment(f"{one.says} and {other.says}", come, min(one.look_s, other.look_s))


@dataclass
class Fault:
    """Of several targets all are struck at once."""

    targets: list[tuple[str, int]]
    moment: Moment | None = None
    means: Signals | str = Signals.SIGKILL
    about: dict[str, Any] = field(default_factory=dict)
    delay_s: float = 0.0
    keeps_pace: bool = False
    struck: list[Struck] = field(default_factory=list)

    def at(self, step: int | None = None, phase: str | None = None, attempt: int | None = None) -> Fault:
        """When a step is done, of this attempt if one is named, or when a phase is entered. Within a rank: in
        it."""
        assert (step is None) != (phase is None), "a step or a phase"
        if phase is not None:
            self.moment = the_phase(phase, attempt or 1)
        else:
            assert step is not None
            self.about["step"], self.moment = step, the_step(step, attempt)
        return self

    def during(self, moment: Moment) -> Fault:
        """At a moment with a name, such as ``recovery()`` or ``write_out(12)``."""
        self.moment = moment
        return self

    def later(self, delay_s: float) -> Fault:
        """So long after the moment."""
        self.delay_s = delay_s
        return self

    def keeping_pace(self) -> Fault:
        """The steps of the run are held back after it as well: it has to last until somebody notices."""
        self.keeps_pace = True
        return self

    def by(self, means: Signals | str, times: int = 1, **about: Any) -> Fault:
        """A signal, or what the rank does to itself, so many ``times`` over the attempts."""
        self.means = means
        self.about |= {"means": means, "times": times, **about}
        return self

    def and_(self, **targets: int | bool) -> Fault:
        """Something else at the same time."""
        self.targets += [(kind, int(number)) for kind, number in targets.items()]
        return self

    def __str__(self) -> str:
        who = " and ".join(f"{kind} {number}" for kind, number in self.targets)
        means = self.means.name if isinstance(self.means, Signals) else self.means
        return f"{who} by {means} {self.moment.says if self.moment else ''}"

    @property
    def within(self) -> bool:
        """Whether a rank does it to itself."""
        return not isinstance(self.means, Signals)

    def write(self, path: Path) -> None:
        """For the script; rank and means are what it looks at."""
        ((kind, number),) = self.targets
        assert kind == "rank", "only a rank can do something to itself"
        path.write_text(json.dumps({"rank": number, **self.about}))

    def strike(self, run: Victim) -> None:
        """Wait for the moment and strike; returns without a strike when the run ends before."""
        assert self.moment is not None, f"{self}: when?"
        assert isinstance(self.means, Signals)
        while not self.moment.come(run):
            if not run.alive():
                return
            time.sleep(self.moment.look_s)
        time.sleep(self.delay_s)
        for process in [self._find(run, *target) for target in self.targets]:
            if process is None:
                continue
            at = Struck(title(process), process.pid, time.time(), time.monotonic(), len(run.records()))
            try:
                os.kill(process.pid, self.means)
            except ProcessLookupError:
                continue
            self.struck.append(at)

    def _find(self, run: Victim, kind: str, number: int) -> psutil.Process | None:
        if kind == "driver":
            return run.driver
        called = TITLES[kind].format(number=number)
        of_all = kind not in ("rank", "writer")  # titles without the run's name: found by the family
        deadline_s = time.monotonic() + FIND_S
        while time.monotonic() < deadline_s:
            found = [
                p
                for p in run.family()
                if called in title(p) and (of_all or title(p).endswith(f" {run.name}"))
            ]
            if found:
                assert len(found) == 1, f"{kind} {number}: {found}"
                return found[0]
            time.sleep(LOOK_S)
        return None


def fail(**targets: int | bool) -> Fault:
    """Of a run: ``rank=N``, ``agent=0``, ``zygote=0``, ``writer=0``, ``raylet=0``, ``gcs=0`` or
    ``driver=True``."""
    return Fault([]).and_(**targets)


def committed_after(run: Victim, fault: Fault, step: int) -> bool:
    """Whether the checkpoint of a step got its name only after the fault had struck, if ever."""
    (first, *_) = fault.struck
    at = [
        n
        for n, r in enumerate(run.records())
        if isinstance(r.event, SnapshotCommitted) and r.event.step == step
    ]
    return not at or at[0] >= first.records
