"""Who makes no progress: a clock for each rank of a node, set back by every sign of it. Pure; the time comes
in.

How long a rank may be silent follows from how long ranks of this node were silent before in the same phase.
What counts is the longest silence of each training step (between two micro-batches, or in the optimizer),
not each of them: a step of many quick micro-batches and one slow optimizer has a small median of silences,
and would be called hung at every one of its ends.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.agent.messages import Overdue
from orchestrator.rank.link import HEARTBEAT_S
from orchestrator.rank.messages import (
    FileSaved,
    Heartbeat,
    LoadBegun,
    Loaded,
    LoadFailed,
    Message,
    OpBuildBegun,
    OpBuildEnded,
    PhaseBegun,
    PhaseEnded,
    SaveBegun,
    Saved,
    SaveFailed,
    Staged,
    StepTaken,
    Unknown,
)

LEAST_SAMPLES = 5
_KEPT_SAMPLES = 256  # of a phase: the last steps of all ranks
# Progress between two heartbeats is seen with the second.
_LEAST_LIMIT_S = 2 * HEARTBEAT_S
HELD = "held"
EXIT = "exit"
_WITHIN_OTHERS = frozenset({"save", "load", HELD})
_AFTER_LOAD = "first_step after load"  # skips data that were used before, however many these are
# Passed once in an attempt: what they took the last time says less about the next.
_ONCE = frozenset({"start", "import", "initialize", "first_step", _AFTER_LOAD, "load"})


@dataclass
class _Clock:
    """One rank: since when there was no progress, and no word; ``longest_s`` is the longest silence by phase
    since the last step was done, ``before`` the phase to which a save or load returns."""

    since_s: float
    heard_s: float
    phase: str = "start"
    before: str = "import"
    step: int | None = None
    progress: int | None = None
    loaded: bool = False
    longest_s: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return _AFTER_LOAD if self.phase == "first_step" and self.loaded else self.phase

    def moved(self, now_s: float) -> None:
        """There was progress: a silence is over."""
        if self.phase not in (HELD, EXIT):
            self.longest_s[self.key] = max(self.longest_s.get(self.key, 0.0), now_s - self.since_s)
        self.since_s = now_s

    def enter(self, phase: str) -> None:
        if self.phase not in _WITHIN_OTHERS:
            self.before = self.phase
        self.phase = phase

    def held(self, now_s: float, floor_s: float) -> bool:
        """Whether it waits for the disk, and still says so."""
        return self.phase == HELD and now_s - self.heard_s <= floor_s


class Watchdog:
    """Watches the ranks of one node; what it learns is kept over attempts.

    A rank may be silent for ``hang_factor`` times the median of its phase, never less than ``hang_floor_s``;
    in a phase of which it has not seen :data:`LEAST_SAMPLES` yet for ``hang_timeout_cold_s``. So it is after
    ``last_step`` as well, where that is known: scripts then convert, upload and evaluate as they like.

    Ranks wait for each other. One in ``step`` may wait for another, here or on another node, that validates
    or saves alone and may be silent for longer: a run hangs when *every* rank that is left is overdue.
    """

    def __init__(
        self,
        hang_factor: float,
        hang_floor_s: float,
        hang_timeout_cold_s: float,
        last_step: int | None = None,
    ) -> None:
        self._factor = hang_factor
        self._floor_s = max(hang_floor_s, _LEAST_LIMIT_S)
        self._unknown_s = max(hang_timeout_cold_s, self._floor_s)
        self._last_step = last_step
        self._clocks: dict[int, _Clock] = {}
        self._history: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT_SAMPLES))
        self._medians: dict[str, float] = {}
        self._named: set[str] = set()

    def new_attempt(self) -> None:
        """Other ranks. A phase that is passed once and in which a rank was overdue is unknown again: if it
        only took longer than the last time, it must not be stopped a second time."""
        for key in self._named & _ONCE:
            self._history.pop(key, None)
            self._medians.pop(key, None)
        self._named.clear()
        self._clocks.clear()

    def heard(self, rank: int, message: Message | Unknown, now_s: float) -> None:
        """Any message of a rank, in the order in which they came."""
        clock = self._clock(rank, now_s)
        clock.heard_s = now_s
        match message:
            case Heartbeat(phase=phase, step=step, progress=progress):
                if (phase, step, progress) != (clock.phase, clock.step, clock.progress):
                    clock.moved(now_s)
                clock.enter(phase)
                clock.progress = progress
                self._reach(clock, step)
            case PhaseBegun(phase):
                clock.moved(now_s)
                clock.enter(phase)
            case PhaseEnded(phase):
                clock.moved(now_s)
                if phase == "initialize":
                    clock.enter("first_step")
            case StepTaken(step):
                # It may come late, when its numbers have arrived from the device; the rank works all the
                # same, and how long it was silent in what it does by now is not known from that.
                if clock.phase in ("step", "first_step"):
                    clock.moved(now_s)
                clock.since_s = now_s
                self._reach(clock, max(step, clock.step or 0))
                if clock.phase == "first_step":  # not at its end's own message, which comes before
                    clock.enter("step")
            case OpBuildBegun() | OpBuildEnded():
                clock.moved(now_s)
            case FileSaved():
                clock.moved(now_s)
                if clock.phase == "save":  # of which a heartbeat has told
                    clock.enter(clock.before)
            case SaveBegun() | LoadBegun():
                clock.moved(now_s)
                clock.enter("save" if isinstance(message, SaveBegun) else "load")
            case Saved() | Staged() | SaveFailed() | Loaded() | LoadFailed():
                clock.moved(now_s)
                self._reach(clock, None if isinstance(message, LoadFailed) else message.step)
                clock.enter(clock.before)
                clock.loaded = clock.loaded or isinstance(message, Loaded | LoadFailed)

    def printed(self, rank: int, now_s: float) -> None:
        """A rank has written into its log: whatever it does, it goes on."""
        self._clock(rank, now_s).moved(now_s)

    def excuse(self, now_s: float) -> None:
        """Set all clocks back: the ranks wait for what is known, the disk of another node for instance."""
        for clock in self._clocks.values():
            clock.since_s = now_s

    def overdue(self, now_s: float, alive: Iterable[int]) -> list[Overdue]:
        """Which of these ranks are silent for too long; none while one of them waits for the disk."""
        clocks = {rank: self._clock(rank, now_s) for rank in alive}
        if any(clock.held(now_s, self._floor_s) for clock in clocks.values()):
            self.excuse(now_s)
            return []
        found = []
        for rank, clock in clocks.items():
            silent_s, limit_s = now_s - clock.since_s, self._limit_s(clock)
            if silent_s > limit_s:
                self._named.add(clock.key)
                found.append(Overdue(rank, clock.phase, clock.step, silent_s, limit_s))
        return found

    def _clock(self, rank: int, now_s: float) -> _Clock:
        return self._clocks.setdefault(rank, _Clock(since_s=now_s, heard_s=now_s))

    def _reach(self, clock: _Clock, step: int | None) -> None:
        """A step more is done, or a step was loaded."""
        if step is None or step == clock.step:
            return
        if clock.phase != "load" and step > (clock.step or 0):
            for key, silence_s in clock.longest_s.items():
                self._history[key].append(silence_s)
                self._medians.pop(key, None)
            clock.longest_s.clear()
        clock.step = step

    def _limit_s(self, clock: _Clock) -> float:
        if clock.phase in (EXIT, HELD):
            return self._floor_s
        if self._last_step is not None and clock.step is not None and clock.step >= self._last_step:
            return self._unknown_s
        samples = self._history.get(clock.key, ())
        if len(samples) < LEAST_SAMPLES:
            return self._unknown_s
        if clock.key not in self._medians:
            self._medians[clock.key] = statistics.median(samples)
        return max(self._floor_s, self._factor * self._medians[clock.key])
