"""A run whose saves take their time, driven by the supervisor and billed by the ledger on a clock of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    Outcome,
    PricesAnnounced,
    Record,
    ResourcesGranted,
    RunStarted,
    SharedBudgetWarned,
    SnapshotCommitted,
    StepDone,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.forecast.price_schedule import Schedule
from orchestrator.supervise.loop import ResumeState, StopRequest, SupervisorOptions, supervise
from orchestrator.supervise.spending import S_PER_HOUR, Budget, Cap, Caps, Spent
from tests.support.fakes import FakeClock

POLL_S = 1.0
GPUS, PRICE = 8, 2.5
BEGAN_UNIX_S = 1e9
STARTED = RunStarted("run", "job", "cluster", "GPU", GPUS, PRICE)
Doing = Iterator[tuple[float, Event]]  # seconds that pass, and what is told then


@dataclass
class SlowSaves:
    """A worker group whose ranks stand still for a part of each save, while its rest is written behind them;
    asked to stop they save once more after the step that is under way. ``saves_s`` are the lengths of the saves
    in their order, ``close_s`` is what it takes to give the nodes back."""

    clock: FakeClock
    steps: int
    step_s: float
    save_every: int
    saves_s: Callable[[int], float]
    stall_share: float = 0.3
    start_s: float = 20.0
    close_s: float = 3.0
    deaf: bool = False
    saved: int = 0
    calls: list[str] = field(default_factory=list)
    _attempt: int = 0
    _doing: Doing = field(default_factory=lambda: iter(()))
    _next: tuple[float, Event] | None = None
    _stop: bool = False
    _kill_at_s: float | None = None
    _number: int = 0

    def acquire(self, cancelled: Callable[[], bool]) -> ResourcesGranted:
        return ResourcesGranted(["node-a"], GPUS)

    def start(
        self,
        attempt: int,
        restore_before: int | None = None,
        skip_batches: Sequence[int] = (),
        put_aside: str = "",
    ) -> AttemptStarted:
        self._attempt, self._stop, self._kill_at_s = attempt, False, None
        self._doing = self._train()
        self._advance()
        return AttemptStarted(attempt, "127.0.0.1", 29500, GPUS, self.saved or None)

    def _train(self) -> Doing:
        at_s = self.clock.now_s() + self.start_s
        on_disk_s = at_s
        for step in range(self.saved + 1, self.steps + 1):
            at_s = max(at_s, self.clock.now_s()) + self.step_s
            yield at_s, StepDone(self._attempt, step, self.step_s, 1.0)
            stopping = self._stop and not self.deaf
            if stopping or step == self.steps or step % self.save_every == 0:
                length_s = self.saves_s(self._number)
                self._number += 1
                stall_s = length_s * self.stall_share
                at_s += stall_s
                yield at_s, CheckpointSaved(self._attempt, step, f"step-{step}", "/c", stall_s, True)
                self.saved = step
                # one writer: a save waits for the one before it
                on_disk_s = max(on_disk_s, at_s) + length_s - stall_s
                if stopping or step == self.steps or on_disk_s <= at_s + self.step_s * self.save_every:
                    at_s = on_disk_s if stopping or step == self.steps else at_s
                    write_s = length_s - stall_s
                    yield on_disk_s, SnapshotCommitted(self._attempt, step, f"step-{step}", "/c", 1, write_s)
            if stopping:
                yield at_s, AttemptEnded(self._attempt, Outcome.STOPPED, step)
                return
        yield at_s, AttemptEnded(self._attempt, Outcome.FINISHED, self.steps)

    def _advance(self) -> None:
        self._next = next(self._doing, None)

    def poll(self) -> list[Event]:
        now_s = self.clock.now_s()
        if self._kill_at_s is not None and now_s >= self._kill_at_s and self._next is not None:
            self._next = None
            return [AttemptEnded(self._attempt, Outcome.STOPPED, self.saved)]
        events = []
        while self._next is not None and self._next[0] <= now_s:
            events.append(self._next[1])
            self._advance()
        return events

    def replace_lost(self, attempt: int) -> list[str]:
        return []

    def stop(self, grace_s: float) -> None:
        self.calls.append(f"stop {grace_s:g}")
        self._stop, self._kill_at_s = True, self.clock.now_s() + grace_s

    def kill(self) -> None:
        self.calls.append("kill")
        self._kill_at_s = self.clock.now_s()

    def abort(self) -> None:
        raise AssertionError("nothing is rejected here")

    def quarantine(self, node: str) -> None:
        raise AssertionError("no node is bad here")

    def close(self) -> None:
        self.clock.sleep(self.close_s)


@dataclass
class Capped:
    """A run with caps; ``told`` is all that happened."""

    caps: Caps
    group: SlowSaves
    shared: Callable[[Spent], dict[Cap, float]] | None = None
    shared_warnings: Callable[[], list[SharedBudgetWarned]] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    told: list[Event] = field(default_factory=list)
    resume_state: ResumeState = field(default_factory=ResumeState)
    schedule: Schedule | None = None  # of prices that change

    def spent(self) -> Spent:
        now_s = self.group.clock.now_s()
        charges = self.ledger.spent(now_s)
        price = self.schedule.most_usd(BEGAN_UNIX_S + now_s, 1.0) if self.schedule else PRICE
        return Spent(charges.cost_usd, charges.gpu_hours, now_s / S_PER_HOUR, self.ledger.gpus_held, price)

    def _mean_usd(self, hours: float) -> float:
        assert self.schedule is not None
        return self.schedule.mean_usd(BEGAN_UNIX_S + self.group.clock.now_s(), hours)

    def _with_prices(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            yield event
            if event is STARTED and self.schedule is not None:
                yield PricesAnnounced([list(each) for each in self.schedule.changes(BEGAN_UNIX_S)])

    def go(self, stop: StopRequest | None = None, meanwhile: Callable[[Event], None] | None = None) -> Event:
        clock = self.group.clock
        events = supervise(
            STARTED,
            self.group,
            RecoveryConfig(),
            clock,
            stop or StopRequest(),
            SupervisorOptions(POLL_S),
            self.resume_state,
            Budget(
                self.caps,
                self.spent,
                self.group.steps,
                self.shared,
                self._mean_usd if self.schedule else None,
                self.shared_warnings,
            ),
        )
        for seq, event in enumerate(self._with_prices(events)):
            record = Record(seq, round(clock.now_s(), 3), BEGAN_UNIX_S + clock.now_s(), event)
            if event.durable:
                self.ledger.fold(record)
            self.told.append(event)
            if meanwhile is not None:
                meanwhile(event)
        return self.told[-1]
