"""Years of random faults against the policy, with a clock that only the simulation moves."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import (
    AttemptStarted,
    BatchesSkipped,
    Decided,
    Event,
    Fault,
    RankLost,
    RunResumed,
)
from orchestrator.supervise.history import History
from orchestrator.supervise.policy import Action, Decision, decide
from tests.support.batches import batch_of
from tests.support.fakes import FakeClock
from tests.support.histories import dies, done, killed, nan, saved

HOUR_S, STEP_S, START_S = 3600.0, 30.0, 60.0
YEAR_S = 365 * 24 * HOUR_S
STEPS, SAVE_EVERY = 200_000, 200  # 69 days
KINDS = {Fault.NODE: 50, Fault.EXIT: 30, Fault.HANG: 10, Fault.MEMORY: 5, Fault.DRIVER: 2}


@dataclass
class Trouble:
    """What is wrong in this simulated world."""

    mean_hours: float  # between random faults
    bad_batches: set[int]  # their loss is NaN
    bad_updates: set[int]  # batches whose update ruins the weights: the next step's loss is NaN
    flips: set[int]  # steps at which a bit flips, once
    bug_at: int | None  # a step at which the script fails, always


@dataclass
class Simulation:
    """A run of a job with this trouble; every event goes into a journal, as the driver's loop does it."""

    trouble: Trouble
    recovery: RecoveryConfig
    can_skip: bool
    random: random.Random
    clock: FakeClock = field(default_factory=FakeClock)
    journal: list[Event] = field(default_factory=list)
    history: History = field(default_factory=History)
    # step, attempt, whether it is ruined
    checkpoints: list[tuple[int, int, bool]] = field(default_factory=list)
    rejected: list[tuple[int, int]] = field(default_factory=list)  # attempt, step
    decisions: list[Decision] = field(default_factory=list)
    attempt: int = 0

    def tell(self, *events: Event) -> None:
        self.journal += events
        self.history.fold_all(events)

    def run(self) -> bool:
        """Whether it got to its last step; False when the policy gave up."""
        before: int | None = None
        while True:
            self.attempt += 1
            if self.attempt_finishes(before):
                return True
            decision = self.decide()
            while decision.action is not Action.STOP and self.lost_before_start():
                decision = self.decide()
            if decision.action is Action.STOP:
                return False
            before = decision.restore_before

    def decide(self) -> Decision:
        known = self.random.choice([None, [kept[0] for kept in self.checkpoints]])
        decision = decide(self.history, self.recovery, can_skip=self.can_skip, restorable=known)
        self.decisions.append(decision)
        if decision.skip:
            self.tell(BatchesSkipped(list(decision.skip), decision.reason))
        self.tell(Decided(decision.action, decision.reason))
        return decision

    def lost_before_start(self) -> bool:
        """Whether a node or the driver is lost while the next attempt is prepared."""
        if self.random.random() > 0.05:
            return False
        if self.random.random() < 0.5:
            self.another_driver()
        else:
            self.attempt += 1
            self.tell(dies(self.attempt, self.history.reached, Fault.NODE, "lost before the attempt began"))
        return True

    def restore(self, before: int | None) -> tuple[int, bool]:
        """The newest checkpoint below ``before``, held against this test's own memory of what was
        rejected."""
        if before is not None:
            self.checkpoints = [kept for kept in self.checkpoints if kept[0] < before]
        step, attempt, ruined = max(self.checkpoints, default=(0, 0, False))
        assert not any(attempt <= bad_attempt and step >= bad for bad_attempt, bad in self.rejected)
        return step, ruined

    def attempt_finishes(self, before: int | None) -> bool:
        """From checkpoint to checkpoint, until something strikes or the last step is done."""
        step, ruined = self.restore(before)
        self.tell(AttemptStarted(self.attempt, "", 0, 2, step or None))
        strikes_s = self.clock.now_s() + self.random.expovariate(1 / (self.trouble.mean_hours * HOUR_S))
        self.clock.sleep(START_S)
        while step < STEPS:
            to = min(step - step % SAVE_EVERY + SAVE_EVERY, STEPS)
            rejected, ruined = self.first_rejected(step, to, ruined)
            in_time = step + max(0, int((strikes_s - self.clock.now_s()) / STEP_S))
            bug = self.trouble.bug_at if self.trouble.bug_at and step < self.trouble.bug_at <= to else None
            last = min(to, in_time, *(at for at in (rejected, bug) if at))
            self.clock.sleep((last - step) * STEP_S)
            if last > step:
                self.tell(done(self.attempt, last))
            if last == rejected:
                self.trouble.flips.discard(last)
                self.rejected.append((self.attempt, last))
                self.tell(nan(self.attempt, last))
                # What the attempt was still writing is there a moment later.
                self.keep(last + self.random.choice([0, 1, SAVE_EVERY]), ruined=True)
                return False
            if last == bug:
                self.tell(dies(self.attempt, last, error="IndexError: a bug of the script"))
                return False
            if last == in_time and last < to:
                self.strike(last)
                return False
            step = to
            self.keep(step, ruined)
        return True

    def first_rejected(self, step: int, to: int, ruined: bool) -> tuple[int | None, bool]:
        """The first step after ``step`` whose loss is NaN, and whether the weights are ruined at ``to``."""
        if ruined:
            return step + 1, True
        first, last = batch_of(step + 1, self.history.skipped), batch_of(to, self.history.skipped)
        here = [b for b in self.trouble.bad_batches | self.trouble.bad_updates if first <= b <= last]
        rejected = [flip for flip in self.trouble.flips if step < flip <= to]
        for batch in set(here) - set(self.history.skipped):
            at = batch + 1 - sum(skipped < batch for skipped in self.history.skipped)
            if batch in self.trouble.bad_batches:
                rejected.append(at)
            elif at == to:
                ruined = True
            else:
                rejected.append(at + 1)
        return min(rejected, default=None), ruined

    def keep(self, step: int, ruined: bool) -> None:
        self.checkpoints = [*self.checkpoints, (step, self.attempt, ruined)][-3:]
        self.tell(saved(self.attempt, step))

    def another_driver(self) -> None:
        """It knows what the journal says, and nothing else."""
        again = History().fold_all(self.journal)
        assert again == self.history
        self.history = again
        self.tell(RunResumed("run", "its driver was killed"))

    def strike(self, step: int) -> None:
        fault = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        if fault is Fault.DRIVER:
            self.another_driver()
        elif fault is Fault.EXIT and self.random.random() < 0.5:
            self.tell(killed(self.attempt, step))
        else:
            outlived = fault is Fault.NODE and self.random.random() < 0.3
            error = "rank 1 outlived SIGKILL" if outlived else f"{fault} {self.random.choice('abcdefgh')}"
            self.tell(dies(self.attempt, step, fault, error, node_unusable=outlived))


def troubled(seed: int) -> Trouble:
    rng = random.Random(seed)
    some = [{rng.randrange(STEPS) for _ in range(rng.choice([0, 0, 1, 2]))} for _ in range(3)]
    bug = rng.randrange(1, STEPS) if rng.random() < 0.2 else None
    return Trouble(rng.choice([2.0, 6.0, 24.0]), some[0], some[1], some[2], bug)


RECOVERIES = {
    "default": RecoveryConfig(),
    "spot": RecoveryConfig(max_restarts=1000, max_faults_without_progress=50, wait_for_node_s=86400),
    "strict": RecoveryConfig(max_restarts=0),
    "tight": RecoveryConfig(max_restarts=1000, max_faults_without_progress=8, max_skips=1, skip_batches=100),
}


@pytest.mark.parametrize("name", RECOVERIES)
@pytest.mark.parametrize("can_skip", [True, False], ids=["can skip", "cannot skip"])
def test_years_of_faults_end_within_every_budget(name: str, can_skip: bool) -> None:
    recovery, finished, simulated_s = RECOVERIES[name], 0, 0.0
    for seed in range(12):
        run = Simulation(troubled(seed), recovery, can_skip, random.Random(seed))
        ends = run.run()  # that this returns at all is the first claim
        finished += ends
        simulated_s += run.clock.now_s()
        causes = [failure.fault for failure in run.history.failures]
        gone_on = len(run.decisions) - (not ends)
        assert sum(d.action is not Action.STOP for d in run.decisions) == gone_on
        on_ranks = sum(cause in (Fault.EXIT, Fault.HANG, Fault.MEMORY) for cause in causes[:gone_on])
        assert on_ranks <= recovery.max_restarts
        assert causes[:gone_on].count(Fault.LOSS) <= recovery.max_skips
        assert len(run.history.skipped) <= recovery.max_skips * recovery.skip_batches
        assert can_skip or not run.history.skipped
        assert [d.quarantine for d in run.decisions if d.quarantine] == [
            lost.node for lost in told_to_replace(run) if lost.node_unusable
        ]
        if ends:
            assert run.trouble.bug_at is None, "a bug of the script's own is not got around"
            assert not run.trouble.bad_batches - set(run.history.skipped)
            assert not any(ruined for *_, ruined in run.checkpoints)
        else:
            assert run.decisions[-1].reason.startswith("stop: ")
    if name == "spot":
        assert simulated_s > YEAR_S
        assert finished, "with enough restarts it gets there"
    if name == "strict":
        assert not finished


def told_to_replace(run: Simulation) -> list[RankLost]:
    failures = zip(run.history.failures, run.decisions, strict=True)
    return [f.cause for f, d in failures if d.action is Action.REPLACE and isinstance(f.cause, RankLost)]
