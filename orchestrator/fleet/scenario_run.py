"""A scenario run once: many sites, one queue, and the rules of the fleet.

Events are submissions, ends, and the hours of the clock, at which caps of power, serving and deliveries
change. Who fits starts; who does not takes GPUs from who is worth less or has only borrowed them, where that
pays (:func:`~orchestrator.fleet.choose.paid`); else it waits. All at one site or not at all.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.choose import Table, fill, paid
from orchestrator.fleet.left import left_of_prediction
from orchestrator.fleet.scenario import Scenario
from orchestrator.fleet.scenario_draw import Arrival, DrawnJobs
from orchestrator.fleet.scenario_power import Power
from orchestrator.fleet.scenario_tally import Tally
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.worth import HOUR_S, delay_usd_per_hour, min_run_s, price_usd, worth

_NOWHERE = -1
_TRIES_AN_HOUR = 4  # of those who wait, the worthiest, to take GPUs from others


@dataclass
class ScenarioRun:
    """What has happened so far. A column has a row for each job, or for each site."""

    scenario: Scenario
    jobs: DrawnJobs
    to_come: list[Arrival]
    tally: Tally = field(init=False)
    now: float = 0.0

    def __post_init__(self) -> None:
        count, sites = len(self.jobs), self.scenario.sites
        self.done_s, self.since, self.counts_from = np.zeros(count), np.zeros(count), np.zeros(count)
        self.queued_at, self.waited_s = self.jobs.submit_s.copy(), np.zeros(count)
        self.first_start, self.ended_at = np.full(count, math.nan), np.full(count, math.nan)
        self.starts, self.site = np.zeros(count, int), np.full(count, _NOWHERE)
        self.last_site = np.full(count, _NOWHERE)
        self.is_owed = np.zeros(count, bool)  # within its company's quota when it started
        self.queue, self.runs = np.empty(0, int), np.empty(0, int)
        self.installed = np.array([site.gpus for site in sites], int)
        self.power = Power(self.scenario)
        self.used = np.zeros(len(sites), int)  # by jobs
        self.usable = np.zeros(len(sites), int)  # for jobs: without serving, and within the cap
        self.largest = np.array([site.largest_gang for site in sites], int)
        self.usd_per_gpu_hour = np.array([site.usd_per_gpu_hour for site in sites])
        self.share = np.zeros((len(self.scenario.companies), len(sites)))
        for at, site in enumerate(sites):
            for company, share in site.quota:
                self.share[company, at] = share
        is_open = np.array([site.is_open for site in sites])
        self.may_use = (self.share > 0.0) | is_open[None, :]
        self.used_by = np.zeros(self.share.shape, int)
        self.stops, self.capped_stops, self.forced_stops = 0, 0, 0
        self._ends: list[tuple[float, int, int]] = []
        self.tally = Tally(self.scenario)

    # --- facts of a moment -----------------------------------------------------------------------

    @property
    def free(self) -> Ints:
        return self.usable - self.used

    def done_now(self, rows: Ints) -> Floats:
        """Of what they have to do, in seconds."""
        more = np.where(self.site[rows] >= 0, np.maximum(self.now - self.counts_from[rows], 0.0), 0.0)
        return self.done_s[rows] + more

    def left_h(self, rows: Ints) -> Floats:
        """As far as anybody knows."""
        knows = self.starts[rows] > 0
        predicted_h = np.where(knows, self.jobs.told_s[rows], self.jobs.predicted_s[rows]) / HOUR_S
        done_h = self.done_now(rows) / HOUR_S
        scenario = self.scenario
        if not len(rows) or knows.all():
            return left_of_prediction(predicted_h, done_h, scenario.told_sigma)
        told = left_of_prediction(predicted_h, done_h, scenario.told_sigma)
        return np.where(knows, told, left_of_prediction(predicted_h, done_h, scenario.sigma))

    def worth(self, rows: Ints, left_h: Floats) -> Floats:
        running = self.site[rows] >= 0
        waited_s = self.waited_s[rows] + np.where(running, 0.0, self.now - self.queued_at[rows])
        predicted_h = self.jobs.predicted_s[rows] / HOUR_S
        slack_h = (self.jobs.deadline_s[rows] - self.now) / HOUR_S - left_h
        policy = self.scenario.policy
        delay = delay_usd_per_hour(
            self.jobs.usd_per_hour[rows], waited_s, predicted_h, slack_h, left_h, policy
        )
        start_h = np.where(self.starts[rows] > 0, self.scenario.restart_s / HOUR_S, 0.0)
        known = np.ones(len(rows), bool)
        return worth(delay, self.jobs.gpus[rows], left_h, start_h, running, known, policy)

    def sites_for(self, row: int) -> Bools:
        """Where it may run and its gang is not too large."""
        found: Bools = self.may_use[self.jobs.company[row]] & (self.largest >= self.jobs.gpus[row])
        return found

    def headroom(self, company: int) -> Ints:
        """GPUs that it may still have of its quota, at each site."""
        quota = np.floor(self.share[company] * self.installed).astype(int)
        found: Ints = quota - self.used_by[company]
        return found

    # --- what happens ----------------------------------------------------------------------------

    def start(self, row: int, site: int) -> None:
        gpus, company = int(self.jobs.gpus[row]), int(self.jobs.company[row])
        again_s = self.scenario.restart_s if self.starts[row] else 0.0
        self.tally.waited(self.queued_at[row], self.now, self.jobs.usd_per_hour[row], site)
        self.waited_s[row] += self.now - self.queued_at[row]
        self.is_owed[row] = self.headroom(company)[site] >= gpus
        self.starts[row] += 1
        self.site[row] = self.last_site[row] = site
        self.since[row], self.counts_from[row] = self.now, self.now + again_s
        if self.starts[row] == 1:
            self.first_start[row] = self.now
        self._use(site, company, gpus)
        self.runs = np.append(self.runs, row)
        left_s = self.jobs.work_s[row] - self.done_s[row]
        heapq.heappush(self._ends, (self.now + again_s + left_s, row, int(self.starts[row])))

    def leave(self, row: int) -> int:
        """Its site's GPUs are free again. Returns the site."""
        site = int(self.site[row])
        self.done_s[row] += max(self.now - self.counts_from[row], 0.0)
        self.site[row] = _NOWHERE
        self._use(site, int(self.jobs.company[row]), -int(self.jobs.gpus[row]))
        self.runs = self.runs[self.runs != row]
        return site

    def stop(self, row: int) -> None:
        self.leave(row)
        self.queued_at[row] = self.now
        self.queue = np.append(self.queue, row)
        self.stops += 1

    def _use(self, site: int, company: int, gpus: int) -> None:
        self.tally.busy_until(self.now, site, int(self.used[site]))
        self.used[site] += gpus
        self.used_by[company, site] += gpus
        self.tally.peak(self.now, site, int(self.used[site]))

    def next_end(self) -> float:
        while self._ends:
            at, row, start = self._ends[0]
            if self.site[row] >= 0 and self.starts[row] == start:
                return at
            heapq.heappop(self._ends)
        return math.inf

    def end_next(self) -> int:
        """Returns the site at which GPUs are free now."""
        _, row, _ = heapq.heappop(self._ends)
        self.ended_at[row] = self.now
        return self.leave(row)

    # --- what is decided -------------------------------------------------------------------------

    def find_room(self, row: int) -> bool:
        """Start it where there is room, in its own quota first and where the least is left over; else where
        others can be made to leave. It is not in the queue."""
        gpus, allowed = int(self.jobs.gpus[row]), self.sites_for(row)
        fits = np.flatnonzero(allowed & (self.free >= gpus))
        if len(fits):
            owed = self.headroom(int(self.jobs.company[row]))[fits] >= gpus
            self.start(row, int(fits[np.lexsort((self.free[fits], ~owed))[0]]))
            return True
        return self._take(row, allowed)

    def _take(self, row: int, allowed: Bools) -> bool:
        """From who can be stopped and is worth less, or has borrowed what this one is owed."""
        runs, jobs = self.runs, self.jobs
        if not len(runs):
            return False
        gpus, company = int(jobs.gpus[row]), int(jobs.company[row])
        at = self.site[runs]
        owed_at = (self.headroom(company) >= gpus) & allowed
        pinned_s = float(min_run_s(np.array(self.scenario.restart_s), self.scenario.policy))
        movable = jobs.is_preemptible[runs] & allowed[at] & (self.since[runs] + pinned_s <= self.now)
        left_h = self.left_h(runs)
        value = self.worth(runs, left_h)
        mine_left_h = self.left_h(np.array([row]))
        mine = float(self.worth(np.array([row]), mine_left_h)[0])
        borrowed = ~self.is_owed[runs] & (jobs.company[runs] != company)
        victims = movable & np.where(owed_at[at], borrowed | (value < mine), ~self.is_owed[runs])
        victims &= (value < mine) | (owed_at[at] & borrowed)
        can_free = np.bincount(at[victims], weights=jobs.gpus[runs[victims]], minlength=len(self.used))
        room = np.flatnonzero(allowed & (self.usable > 0) & (self.free + can_free >= gpus))
        if not len(room):
            return False
        site = int(room[np.lexsort((-(self.free + can_free)[room], ~owed_at[room]))[0]])
        here = np.flatnonzero(victims & (at == site))
        order = here[np.lexsort((value[here], ~borrowed[here]))]
        rows = np.append(runs[order], row)
        table = Table(
            np.append(value[order], mine), np.zeros(len(rows), int), jobs.submit_s[rows], jobs.gpus[rows],
            np.append(np.ones(len(order), bool), False), np.zeros(len(rows), bool),
            np.append(left_h[order], mine_left_h),
            price_usd(jobs.gpus[rows], np.array(self.scenario.restart_s), self.usd_per_gpu_hour[site]),
            np.ones(len(rows), bool),
        )  # fmt: skip
        owed = np.zeros(len(rows), bool)
        owed[-1] = owed_at[site]
        starts, places = np.array([len(order)]), np.arange(len(order))
        payment = paid(table, starts, places, int(self.free[site]), owed)
        if payment.unpaid.any():
            return False
        for place in payment.stops:
            self.stop(int(rows[place]))
        self.start(row, site)
        return True

    def fill_site(self, site: int) -> None:
        """From the queue: who is owed it first, then the worthiest, as far as they fit."""
        free = int(self.free[site])
        if free <= 0 or not len(self.queue):
            return
        queue, jobs = self.queue, self.jobs
        fits = (jobs.gpus[queue] <= min(free, int(self.largest[site]))) & self.may_use[
            jobs.company[queue], site
        ]
        rows = queue[fits]
        if not len(rows):
            return
        value = self.worth(rows, self.left_h(rows))
        headroom = np.array([self.headroom(company)[site] for company in range(len(self.used_by))])
        owed = jobs.gpus[rows] <= headroom[jobs.company[rows]]
        order = rows[np.lexsort((-value, ~owed))]
        starts = order[fill(jobs.gpus[order], free)]
        self.queue = queue[~np.isin(queue, starts)]
        for row in starts.tolist():
            self.start(row, site)

    def keep_caps(self) -> None:
        """Where power or serving takes GPUs away: who can be stopped leaves first, the least worthy and those
        who borrow before the others. Whoever leaves looks for room elsewhere at once."""
        left = []
        for site in np.flatnonzero(self.used > self.usable).tolist():
            here = self.runs[self.site[self.runs] == site]
            value = self.worth(here, self.left_h(here))
            preemptible = self.jobs.is_preemptible[here]
            for row in here[np.lexsort((value, self.is_owed[here], ~preemptible))].tolist():
                if self.used[site] <= self.usable[site]:
                    break
                self.stop(row)
                self.capped_stops += 1
                self.forced_stops += not self.jobs.is_preemptible[row]
                left.append(row)
        for row in left:
            self.queue = self.queue[self.queue != row]
            if not self.find_room(row):
                self.queue = np.append(self.queue, row)

    def try_the_worthiest(self) -> None:
        """Worth grows while a job waits: now and then those at the head ask again for GPUs of others."""
        if not len(self.queue):
            return
        value = self.worth(self.queue, self.left_h(self.queue))
        for row in self.queue[np.argsort(-value, kind="stable")[:_TRIES_AN_HOUR]].tolist():
            before = self.queue
            self.queue = before[before != row]
            if not self.find_room(row):
                self.queue = np.append(self.queue, row)


def run_scenario(scenario: Scenario, jobs: DrawnJobs, arrivals: list[Arrival]) -> ScenarioRun:
    """From the warm-up to the end of the last week."""
    run = ScenarioRun(scenario, jobs, list(arrivals))
    next_row, hour, hours = 0, 0, int(scenario.ends_s / HOUR_S)
    while True:
        submits_at = float(jobs.submit_s[next_row]) if next_row < len(jobs) else math.inf
        hour_at = hour * HOUR_S
        ends_at = run.next_end()
        run.now = min(hour_at, submits_at, ends_at)
        if ends_at <= run.now:
            run.fill_site(run.end_next())
        elif hour_at <= run.now:
            if hour == hours:
                break
            _on_the_hour(run, hour)
            hour += 1
        else:
            if not run.find_room(next_row):
                run.queue = np.append(run.queue, next_row)
            next_row += 1
    run.tally.close(run)
    return run


def _on_the_hour(run: ScenarioRun, hour: int) -> None:
    before = run.usable.copy()
    run.tally.close_hour(run)
    while run.to_come and run.to_come[0].at_s <= run.now:
        arrival = run.to_come.pop(0)
        run.installed[arrival.site] += arrival.gpus
    run.usable = run.power.usable(run.installed, hour)
    run.keep_caps()
    run.tally.open_hour(run)
    for site in np.flatnonzero((run.usable > before) & (run.free > 0)).tolist():
        run.fill_site(site)
    run.try_the_worthiest()
    run.tally.ask(run)
