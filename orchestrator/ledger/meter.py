"""The meter: records → charges, each a stretch of time in a bucket times the GPUs held → bill.

Pure. Time is counted in whole microseconds (the journal's resolution), so that the buckets sum to
the elapsed time exactly and not up to rounding.

Where a second goes
-------------------
The time between two *turning points* (a step, a checkpoint, a lost rank, …; see the handlers below)
goes to one bucket; records that turn nothing, such as a node's samples, do not split it.

- Before resources are granted: **waiting**, with no GPU held.
- Then **starting** until the first step; after a failed attempt, **recovering** until the next one.
  Of the time that ends with an attempt's first step, that step's own ``step_time_s`` is training.
- From step to step: **training**, **redone** when the step had been reached before, or **skipped** when the
  loss scale was too high for it: such a step trains nothing, and is no step, no tokens and no throughput.
  Time after the last step completed none, so it is never training: it goes to what ended it, a fault
  (**recovering**, so a hang does not look like work) or a stop (**stopping**).
- A checkpoint's ``stall_s`` is **checkpoint**. It is taken from the time since the last step and, because one
  poll may see a step and its checkpoint together, from this attempt's steps since the last checkpoint. Where
  steps were counted longer than the ranks say that they took, it is taken from there as well, however long
  ago: a driver that was frozen (a laptop's lid, a virtual machine on the move) hears of many steps and of the
  checkpoint that ranks waited in at once.
- A node that is taken away turns nothing yet: steps that are done until the ranks have saved are training.
  From the last of them on it is **recovering**.
- After a stop was asked for, or the attempt ended for good: **stopping** until nothing is held. A step
  that is done all the same takes its own ``step_time_s``.
- Where no rank tells of its steps any more, because what tells of them has failed in all of them, time is
  **unobserved** from the last step on until the attempt ends or is stopped: the ranks may well train.
- A run that was taken up again is **recovering** until its next step, or **starting** where somebody had
  stopped it. It holds nothing until resources are granted anew, and the time between the two drivers is on
  nobody's clock.

Throughput
----------
``tokens_per_s`` is the steady state: tokens of new steps over the wall time of those steps, without the first
step of each attempt (compilation, communicators, allocator) and those recorded in the same breath with
it. It includes everything between steps, such as waiting for data, and excludes checkpoint stalls,
redone steps, starts and recoveries: goodput shows those, and the price per token contains them.
A run with no second step falls back to all its training time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    EngineConfigured,
    Event,
    LossRejected,
    NodeDraining,
    Outcome,
    PricesAnnounced,
    ProbesFailed,
    RankLost,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    StepDone,
    StopRequested,
)
from orchestrator.ledger.bill import Bill, Bucket, Steady, make_bill
from orchestrator.ledger.charge import Charge, Spent
from orchestrator.ledger.rates import US_PER_S, Part, Rates, Stretch
from orchestrator.records import LONGEST_S
from orchestrator.script_events import ScriptSaved, TokensSeen
from orchestrator.vocabulary import STOPPED_ON_PURPOSE

__all__ = ["Bill", "Bucket", "Meter"]

STEPPING = (Bucket.TRAINING, Bucket.REDONE)
_NOTHING = Spent()
_STEPS = (*STEPPING, Bucket.SKIPPED)  # from which a checkpoint's stall may have to be taken


@dataclass
class _SteadyUs:
    steps: int = 0
    us: int = 0
    gpu_us: int = 0


@dataclass
class Meter:
    """Folds records, in the journal's order; ``facts`` is what the run said of itself, ``bucket`` where time
    goes."""

    facts: RunStarted | None = None
    _planned: RunStarted | None = None  # before DeepSpeed's engine told with which batch it trains
    bucket: Bucket = Bucket.WAITING
    _now_us: int = 0
    _open: Stretch = field(default_factory=Stretch)  # since the last turning point
    _rates: Rates = field(default_factory=Rates)
    _us: dict[Bucket, int] = field(default_factory=lambda: dict.fromkeys(Bucket, 0))
    _gpu_us: dict[Bucket, int] = field(default_factory=lambda: dict.fromkeys(Bucket, 0))
    _spent: Spent = field(default_factory=Spent)
    _spent_in: dict[tuple[str, Bucket], Spent] = field(default_factory=dict)  # by month
    _charges: list[Charge] = field(default_factory=list)  # of the last record
    _gpus: int = 0
    _attempts: int = 0
    _failed: bool = False
    _going_back: bool = False
    _ended: bool = False
    _stopped: bool = False  # by somebody; whoever takes the run up then restarts nothing
    _taken_up: int = 0  # attempts that followed such a stop
    _warming: bool = True
    _highest_step: int = 0
    _new_steps: int = 0
    _skipped_steps: int = 0
    _loss: float | None = None
    _steady: _SteadyUs = field(default_factory=_SteadyUs)
    _claimable: dict[Bucket, Stretch] = field(default_factory=lambda: {each: Stretch() for each in _STEPS})
    _claimable_steady_us: int = 0
    _surplus_us: int = 0  # that steps of this attempt were counted longer than they took

    def fold(self, record: Record) -> list[Charge]:
        """Take one record into account; returns the charges that follow from it, which the bill has from now
        on."""
        now_us = max(self._now_us, round(record.elapsed_s * US_PER_S))
        passed_us = now_us - self._now_us
        self._open.add(self._rates.passing(passed_us))
        self._rates.look(passed_us, record.time_unix_s)
        self._now_us = now_us
        self._charges = []
        self._turn(record.event)
        return self._charges

    def fold_all(self, records: Iterable[Record]) -> Meter:
        """Fold them one after another; returns itself."""
        for record in records:
            self.fold(record)
        return self

    def bill(self, now_elapsed_s: float | None = None) -> Bill:
        """The bill at the last record or, for a run under way, at a later ``now_elapsed_s``."""
        still_open = self.open_charges(now_elapsed_s)
        us, gpu_us = dict(self._us), dict(self._gpu_us)
        for charge in still_open:
            us[charge.bucket] += charge.us
            gpu_us[charge.bucket] += charge.gpu_us
        spent = self._spent.plus(*still_open)
        return make_bill(
            self.facts,
            elapsed_s=(self._now_us + self._ahead_us(now_elapsed_s)) / US_PER_S,
            bucket=self.bucket,
            gpus_held=self._gpus,
            seconds={bucket: value / US_PER_S for bucket, value in us.items()},
            gpu_seconds={bucket: value / US_PER_S for bucket, value in gpu_us.items()},
            gpu_hours=spent.gpu_hours,
            cost_usd=spent.cost_usd,
            steps=self._new_steps,
            step=self._highest_step,
            restarts=max(0, self._attempts - 1 - self._taken_up),
            steady=Steady(self._steady.steps, self._steady.us / US_PER_S, self._steady.gpu_us / US_PER_S),
            final_loss=self._loss,
            skipped_steps=self._skipped_steps,
            bucket_usd=self._bucket_usd(still_open),
        )

    def _bucket_usd(self, still_open: Sequence[Charge]) -> dict[Bucket, float]:
        usd: dict[Bucket, float] = {}
        for (_, bucket), spent in self.by_month(still_open).items():
            if spent.gpu_us:
                usd[bucket] = usd.get(bucket, 0.0) + spent.cost_usd
        return usd

    def by_month(self, still_open: Sequence[Charge]) -> dict[tuple[str, Bucket], Spent]:
        """The charges so far, and those that are open still, by the month in which they were held and by what
        they went to."""
        spent = self._spent_in
        if any(charge.us for charge in still_open):
            spent = dict(spent)
            for charge in still_open:
                key = charge.month, charge.bucket
                spent[key] = spent.get(key, _NOTHING).plus(charge)
        return spent

    def spent(self, now_elapsed_s: float | None = None) -> Spent:
        """The charges so far alone, without a bill."""
        return self._spent.plus(*self.open_charges(now_elapsed_s))

    @property
    def gpus_held(self) -> int:
        """Without a bill, which costs ten times as much as all else that is done for a step."""
        return self._gpus

    def open_charges(self, now_elapsed_s: float | None = None) -> tuple[Charge, ...]:
        """What a bill counts of the time since the last turning point, before it is known what that was spent
        on: one charge at least, all of the same bucket."""
        ahead = self._rates.passing(self._ahead_us(now_elapsed_s))
        parts = self._open.with_more(ahead) if ahead else self._open
        found = tuple(Charge(self.bucket, us, self._gpus, *rate) for us, rate in parts)
        return found or (Charge(self.bucket, 0, self._gpus, *self._rates.now),)

    def usd_per_gpu_hour(self, now_elapsed_s: float) -> float:
        """The price that holds then."""
        ahead = self._rates.passing(self._ahead_us(now_elapsed_s))
        return (ahead[-1][1] if ahead else self._rates.now).usd_per_gpu_hour

    def _ahead_us(self, now_elapsed_s: float | None) -> int:
        if now_elapsed_s is None or self._ended:
            return 0
        return max(0, round(now_elapsed_s * US_PER_S) - self._now_us)

    def _turn(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._close()
                self.facts = self._planned = event
                self._rates.begin(event.price_usd_per_gpu_hour)
                self._hold(0, Bucket.WAITING)
                self._failed = self._ended = False
            case PricesAnnounced():
                self._rates.announced(event.prices)
            case EngineConfigured():
                self._tokens_per_step_of(event)
            case TokensSeen() if self._planned is not None and self._planned.tokens_per_step is None:
                self.facts = replace(self._planned, tokens_per_step=event.tokens_per_step)
            case RunResumed():
                if self._ended:  # since then a cluster was looked for, and nothing held
                    self.bucket = Bucket.WAITING
                self._close()
                self._changed(event)
                self._failed, self._ended = not self._stopped, False
                self._hold(0, Bucket.RECOVERING if self._failed else Bucket.WAITING)
            case ResourcesGranted():
                self._close()
                self._hold(event.gpus, self._before_first_step())
            case AttemptStarted():
                self._close()
                self._taken_up += self._stopped and self._attempts > 0
                self._stopped = False
                self._attempts += 1
                self._going_back = False
                self._begin(self._before_first_step())
            case StepDone():
                self._step(event)
            case CheckpointSaved() | ScriptSaved():
                self._checkpoint(_us(event.stall_s))
            case RankLost() | LossRejected() | AttemptEnded(outcome=Outcome.FAILED):
                self._fault()
            case ProbesFailed(observed=0) if self.bucket is not Bucket.STOPPING:
                self._close(unfinished=Bucket.UNOBSERVED)
                self._begin(Bucket.UNOBSERVED)
            case NodeDraining() if self.bucket is not Bucket.STOPPING:
                self._failed = self._going_back = True  # the step under way may be done, and be saved
            case AttemptEnded(outcome=Outcome.STOPPED) if self._going_back:
                self._fault()
            case AttemptEnded() | StopRequested():
                self._going_back = False
                self._stop()
            case ResourcesReleased():
                self._close(unfinished=Bucket.STOPPING)
                stopping = self.bucket is Bucket.STOPPING
                self._hold(0, Bucket.STOPPING if stopping else Bucket.WAITING)
            case RunEnded():
                self._close(unfinished=Bucket.STOPPING)
                self._hold(0, Bucket.STOPPING)
                self._ended, self._stopped = True, event.status in STOPPED_ON_PURPOSE

    def _step(self, event: StepDone) -> None:
        interval_us, own_us = self._open.us, _us(event.step_time_s)
        redone = event.step <= self._highest_step and self._new_steps + self._skipped_steps > 0
        kind = Bucket.REDONE if redone else Bucket.SKIPPED if event.skipped else Bucket.TRAINING
        first = self.bucket not in STEPPING
        counted_us = min(own_us, interval_us) if first else interval_us
        self._add(self.bucket, self._open.first(interval_us - counted_us))
        counted = self._open.first(counted_us)
        self._add(kind, counted or [(0, self._rates.now)])
        self._claimable[kind].add(counted)
        self._surplus_us += counted_us - own_us
        # Steps that one poll saw together with the first have no time of their own in the journal.
        self._warming = first or (self._warming and 2 * interval_us < own_us)
        if kind is Bucket.SKIPPED:
            self._skipped_steps += 1
        elif not redone:
            self._new_steps += 1
            if not self._warming:
                self._steady.steps += 1
                self._steady.us += counted_us
                self._steady.gpu_us += counted_us * self._gpus
                self._claimable_steady_us += counted_us
        self._highest_step = max(self._highest_step, event.step)
        if event.loss is not None and not event.skipped:
            self._loss = event.loss
        if self.bucket is not Bucket.STOPPING:
            self.bucket = Bucket.REDONE if event.step < self._highest_step else Bucket.TRAINING

    def _checkpoint(self, stall_us: int) -> None:
        taken_us = min(stall_us, self._open.us)
        self._add(Bucket.CHECKPOINT, self._open.take_last(taken_us))
        for kind in _STEPS:
            more_us = min(stall_us - taken_us, self._claimable[kind].us)
            more = self._claimable[kind].take_last(more_us)
            self._add(kind, [(-us, rate) for us, rate in more])
            self._add(Bucket.CHECKPOINT, more)
            taken_us += more_us
            self._surplus_us -= more_us
            if kind is Bucket.TRAINING:
                steady_us = min(more_us, self._claimable_steady_us)
                self._steady.us -= steady_us
                self._steady.gpu_us -= steady_us * self._gpus
                self._claimable_steady_us -= steady_us
        left_us = max(0, self._surplus_us)
        self._claimable_steady_us = min(self._claimable_steady_us, left_us)
        for kind in _STEPS:
            self._claimable[kind].keep_last(left_us)
            left_us -= self._claimable[kind].us

    def _stop(self) -> None:
        # A step under way may still be done: its time stays open, and is stopping if it is not.
        if self.bucket in STEPPING:
            self.bucket = Bucket.STOPPING
        else:
            self._close()
            self._begin(Bucket.STOPPING)

    def _fault(self) -> None:
        self._close()
        if self.bucket is not Bucket.STOPPING:
            self._failed = self._going_back = True
            self._begin(self._before_first_step() if self._gpus else Bucket.WAITING)

    def _before_first_step(self) -> Bucket:
        return Bucket.RECOVERING if self._failed else Bucket.STARTING

    def _begin(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._warming = True
        self._forget_claims()

    def _hold(self, gpus: int, bucket: Bucket) -> None:
        self._gpus = max(0, gpus)
        self._begin(bucket)

    def _forget_claims(self) -> None:
        self._claimable = {each: Stretch() for each in _STEPS}
        self._claimable_steady_us = self._surplus_us = 0

    def _changed(self, event: RunResumed) -> None:
        """A run may go on with another number of steps, or on more GPUs or fewer."""
        if event.changed and self.facts is not None and self._planned is not None:
            gpus = self.facts.gpus if event.gpus is None else event.gpus
            self.facts = replace(self.facts, steps=event.steps, gpus=gpus)
            self._planned = replace(self._planned, steps=event.steps, gpus=gpus)

    def _tokens_per_step_of(self, engine: EngineConfigured) -> None:
        """A script that brings a batch of its own trains on as many tokens as that has."""
        per_step = self._planned.tokens_per_step if self._planned else None
        planned = engine.planned.get("global_batch", engine.global_batch)
        if self._planned is not None and per_step is not None and isinstance(planned, int) and planned > 0:
            tokens = per_step * engine.global_batch // planned
            self.facts = replace(self._planned, tokens_per_step=tokens)

    def _close(self, unfinished: Bucket = Bucket.RECOVERING) -> None:
        open_for = unfinished if self.bucket in STEPPING else self.bucket
        self._add(open_for, self._open.first(self._open.us))

    def _add(self, bucket: Bucket, parts: Sequence[Part]) -> None:
        for us, rate in parts:
            charge = Charge(bucket, us, self._gpus, *rate)
            self._us[bucket] += us
            self._gpu_us[bucket] += us * self._gpus
            self._spent.add(charge)
            spent = self._spent_in.get((rate.month, bucket))
            if spent is None:
                spent = self._spent_in[rate.month, bucket] = Spent()
            spent.add(charge)
            self._charges.append(charge)


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S) if 0 < seconds <= LONGEST_S else 0
