"""For how long nothing has changed about a rank. Pure; samples and time come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.agent.hang_stacks import Frame
from orchestrator.agent.vitals import Vitals
from orchestrator.agent.waits import Wait

# Of one processor: a thread that only looks at a clock now and then is no work.
IDLE_SHARE = 0.01
_IDLE_S = 0.05


@dataclass(frozen=True)
class Sample:
    """A rank at one moment. ``before`` and ``after`` it was asked for its stack, which is work as well.
    ``taken_apart``: its interpreter has ended all threads and run its exit handlers, so it has no stack."""

    at_s: float
    stack: tuple[Frame, ...]
    wait: Wait
    before: Vitals | None
    after: Vitals | None
    taken_apart: bool = False


@dataclass(frozen=True)
class Still:
    """``still_s``: for how long the process tree has done nothing, with the same stack and the same wait at
    each look. ``same_place_s``: for how long its main thread was found in the same functions. ``cpu_share``:
    how many processors the tree has kept busy since then."""

    still_s: float
    same_place_s: float
    cpu_share: float


class Stillness:
    """Follows one rank from look to look."""

    def __init__(self) -> None:
        self._first_still: Sample | None = None
        self._first_here: Sample | None = None
        self._last: Sample | None = None

    def look(self, sample: Sample) -> Still:
        last, self._last = self._last, sample
        if last is None or self._first_still is None or moved(self._first_still, last, sample):
            self._first_still = sample
        if last is None or self._first_here is None or _functions(last.stack) != _functions(sample.stack):
            self._first_here = sample
        here_s = sample.at_s - self._first_here.at_s
        return Still(sample.at_s - self._first_still.at_s, here_s, _cpu_share(self._first_here, sample))


def moved(first: Sample, last: Sample, now: Sample) -> bool:
    """Whether anything has changed between two looks, or more time of a processor was used since the first of
    them than a process needs to do nothing. What cannot be seen counts as changed."""
    needs_stack = not now.taken_apart and now.wait not in (Wait.STOPPED, Wait.DISK)
    if now.stack != last.stack or (needs_stack and not now.stack):
        return True
    if now.wait is not last.wait or now.before is None or last.after is None or first.after is None:
        return True
    if now.before.cpu_s - first.after.cpu_s > _IDLE_S + IDLE_SHARE * (now.at_s - first.at_s):
        return True
    return _counters(now.before) != _counters(last.after)


def _counters(one: Vitals) -> tuple[object, ...]:
    return one.pids, one.io, one.faults, one.files, one.socket_bytes


def _functions(stack: Sequence[Frame]) -> list[tuple[str, str]]:
    return [(frame.file, frame.name) for frame in stack]


def _cpu_share(first: Sample, now: Sample) -> float:
    if first.after is None or now.before is None or now.at_s <= first.at_s:
        return 0.0
    return max(0.0, now.before.cpu_s - first.after.cpu_s) / (now.at_s - first.at_s)
