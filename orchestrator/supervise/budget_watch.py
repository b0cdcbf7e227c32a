"""A run's budget, watched while it goes on: what the supervisor asks at each look, and what is told of it."""

from __future__ import annotations

from orchestrator.budget_events import (
    BudgetKilled,
    BudgetProjected,
    BudgetReached,
    BudgetSettled,
    BudgetWarned,
)
from orchestrator.events import Event, StepDone
from orchestrator.supervise.spending import (
    IN_USD,
    PATIENCE,
    STOP_S,
    WARN_SHARE,
    Budget,
    Cap,
    Do,
    Pace,
    Range,
    SaveTimes,
    Spent,
    Verdict,
    shared_key,
    verdict,
)

# Between two words on what the run will come to.
_TELL_EVERY_S = 5.0


class BudgetWatch:
    """One driver's, of a run with caps or without. ``stopping_for`` is the cap for which the run was asked to
    save and stop; None where nobody was, or somebody else has asked."""

    def __init__(self, budget: Budget | None, times: SaveTimes, poll_s: float, step: int = 0) -> None:
        self._budget = budget if budget is not None and (budget.own.limits or budget.shared) else None
        self._limits: dict[Cap, float] = {}  # as at the last look
        self._times, self._poll_s, self._step = times, poll_s, step
        self._pace = Pace()
        self._tell_at_s = 0.0
        self._killed = False
        self.stopping_for: Cap | None = None

    def told(self, event: Event) -> None:
        """Take an event of the run into account."""
        if self._budget is None:
            return
        self._times.fold(event)
        if isinstance(event, StepDone):
            self._step = max(self._step, event.step)
            self._pace.reached(event.step, self._budget.spent())

    def is_due(self) -> bool:
        """Whether the run has to stop for its budget, for whoever waits and can do nothing else meanwhile."""
        return self._look(stopping=False)[0].do is not Do.GO_ON

    def look(self, now_s: float, *, asked: bool) -> tuple[Do, list[Event]]:
        """What is to be done now, and what there is to tell. ``asked``: somebody has asked the ranks to save
        and leave, who are asked once. A kill is said once."""
        if self._budget is None:
            return Do.GO_ON, []
        asked = asked or self.stopping_for is not None
        found, spent = self._look(stopping=asked)
        events = self._told_of_caps(now_s, spent)
        if found.cap is None or (found.do is Do.KILL and self._killed):
            return Do.GO_ON, events
        limit = self._limits[found.cap]
        if not asked:
            self.stopping_for = found.cap
            reserve_s = self._reserve_s
            events.append(
                BudgetReached(
                    found.cap,
                    limit,
                    spent.of(found.cap),
                    reserve_s * spent.per_s(found.cap),
                    reserve_s,
                    self._budget.own.hard,
                )
            )
        if found.do is Do.KILL:
            self._killed = True
            events.append(BudgetKilled(found.cap, limit, spent.of(found.cap)))
        return found.do, events

    def grace_s(self, stop_grace_s: float, *, saves: bool) -> float:
        """How long ranks have to save and leave: of a script that ``saves`` much longer than was reserved,
        since a cap that is passed costs less than what a save would have kept. A hard cap gives what was
        reserved, and ends before that where the cap is reached."""
        if self._budget is not None and self._budget.own.hard:
            return self._reserve_s
        return max(stop_grace_s, self._reserve_s * (PATIENCE if saves else 1.0))

    def settled(self) -> BudgetSettled | None:
        """How it came out, once nothing is held any more: of the cap that the run stopped for, else of the
        one that is nearest. None where there is none."""
        if self._budget is None:
            return None
        spent, limits = self._budget.spent(), self._budget.own.limits
        if self.stopping_for is not None:
            limits = self._limits
        elif not limits:
            return None
        cap = self.stopping_for or max(limits, key=lambda each: spent.of(each) / limits[each])
        more = self._to_finish(cap)
        figures = (more.expected, more.low, more.high) if more is not None else (None, None, None)
        return BudgetSettled(cap, limits[cap], spent.of(cap), *figures)

    @property
    def _reserve_s(self) -> float:
        assert self._budget is not None
        return self._times.reserve_s(self._poll_s, self._budget.own.first_save_s)

    def _look(self, *, stopping: bool) -> tuple[Verdict, Spent]:
        budget = self._budget
        if budget is None:
            return Verdict(Do.GO_ON), Spent(0, 0, 0, 0, 0)
        spent = budget.spent()
        # What has done its last step ends by itself, and saves once as it would if it were asked to.
        done = budget.steps is not None and self._step >= budget.steps
        caps = budget.caps(spent)
        self._limits = caps.limits
        found = verdict(
            caps,
            spent,
            self._reserve_s,
            stopping=stopping or done,
            kill_s=self._poll_s + STOP_S,
        )
        return found, spent

    def _told_of_caps(self, now_s: float, spent: Spent) -> list[Event]:
        """Each cap of which most is spent is warned of once, and now and then it is told what a run will come
        to."""
        assert self._budget is not None
        events: list[Event] = []
        due, limits = now_s >= self._tell_at_s, self._budget.own.limits
        for cap, limit in limits.items():
            known = spent.of(cap), *self._totals(cap, spent)
            if spent.of(cap) >= WARN_SHARE * limit and (cap, limit) not in self._times.warned:
                self._times.warned.add((cap, limit))
                events.append(BudgetWarned(cap, limit, *known))
            elif due:
                events.append(BudgetProjected(cap, limit, *known))
        events += self._told_of_shared()
        if due:
            self._tell_at_s = now_s + _TELL_EVERY_S
        return events

    def _told_of_shared(self) -> list[Event]:
        """Each once, by every run that draws from it."""
        assert self._budget is not None
        found = self._budget.shared_warnings() if self._budget.shared_warnings is not None else []
        new = {(shared_key(one), one.cap): one for one in found}
        told = [one for known, one in new.items() if known not in self._times.warned]
        self._times.warned |= new.keys()
        return list(told)

    def _totals(self, cap: Cap, spent: Spent) -> tuple[float | None, float | None, float | None]:
        more = self._to_finish(cap)
        if more is None:
            return None, None, None
        total = more.plus(spent.of(cap))
        return total.expected, total.low, total.high

    def _to_finish(self, cap: Cap) -> Range | None:
        assert self._budget is not None
        steps, mean_usd = self._budget.steps, self._budget.mean_usd
        if mean_usd is None or cap not in IN_USD:
            return self._pace.to_finish(cap, self._step, steps)
        held = self._pace.to_finish(Cap.GPU_HOURS, self._step, steps)
        lasts = self._pace.to_finish(Cap.DEADLINE, self._step, steps)
        if held is None or lasts is None:
            return None
        return Range(
            held.low * mean_usd(lasts.low),
            held.expected * mean_usd(lasts.expected),
            held.high * mean_usd(lasts.high),
        )
