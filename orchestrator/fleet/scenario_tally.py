"""What is counted while a scenario runs: by site and week."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.fleet.scenario import WEEK_S, Scenario
from orchestrator.fleet.scenario_value import gpu_hour_usd, mwh_usd, waits_at_the_end
from orchestrator.fleet.worth import HOUR_S, price_usd

if TYPE_CHECKING:
    from orchestrator.fleet.scenario_run import ScenarioRun


class Tally:
    """Rows are weeks, the warm-up's first; columns are sites. ``delay_usd`` has a last column for those who
    have not started anywhere."""

    def __init__(self, scenario: Scenario) -> None:
        self.weeks, count = scenario.warmup_weeks + scenario.weeks, len(scenario.sites)
        shape = (self.weeks, count)
        self.delay_usd = np.zeros((self.weeks, count + 1))
        self.busy_gpu_h = np.zeros(shape)
        self.serving_gpu_h, self.unserved_gpu_h = np.zeros(shape), np.zeros(shape)
        self.installed_gpu_h, self.held_back_gpu_h = np.zeros(shape), np.zeros(shape)
        self.kwh, self.peak_kw = np.zeros(shape), np.zeros(shape)
        self.over_cap_kw = np.full(shape, -np.inf)  # the most by which a cap was passed
        hours = (int(scenario.ends_s / HOUR_S), count)
        self.waiting_worth = np.zeros(
            hours
        )  # of who waits and could run there, in dollars an hour, by GPU-hour
        self.is_held_back = np.zeros(hours, bool)  # power keeps GPUs from work
        self.largest_gpus = np.zeros(shape, int)
        self.displaced_jobs, self.displaced_gpus = np.zeros(shape, int), np.zeros(shape, int)
        self.displaced_usd = np.zeros(shape)
        self.gpu_hour_usd, self.mwh_usd = np.zeros(shape), np.zeros(shape)  # at the end
        self.lasts = np.zeros(count)  # likewise
        self._busy_s, self._since = np.zeros(count), np.zeros(count)  # GPU-seconds of this hour
        self._peak = np.zeros(count, int)
        self._hour = -1

    def _week(self, at_s: float) -> int:
        return min(int(at_s / WEEK_S), self.weeks - 1)

    def waited(self, from_s: float, until_s: float, usd_per_hour: float, site: int) -> None:
        """A wait is counted in the weeks that it lies in."""
        at_s = from_s
        while at_s < until_s:
            week = self._week(at_s)
            end_s = until_s if week == self.weeks - 1 else min((week + 1) * WEEK_S, until_s)
            self.delay_usd[week, site] += usd_per_hour * (end_s - at_s) / HOUR_S
            at_s = end_s

    def busy_until(self, now: float, site: int, used: int) -> None:
        self._busy_s[site] += used * (now - self._since[site])
        self._since[site] = now

    def peak(self, now: float, site: int, used: int) -> None:
        self._peak[site] = max(self._peak[site], used)

    def open_hour(self, run: ScenarioRun) -> None:
        """Once the caps of the hour hold."""
        self._hour += 1
        self._peak = run.used.copy()
        if run.now % WEEK_S == 0:
            self._largest(run, self._week(run.now))

    def close_hour(self, run: ScenarioRun) -> None:
        """Before anything of the next is decided."""
        if self._hour < 0:
            return
        week, power = self._week(self._hour * HOUR_S), run.power
        self._busy_s += run.used * (run.now - self._since)
        self._since[:] = run.now
        busy = self._busy_s / HOUR_S
        self._busy_s[:] = 0.0
        installed = run.installed
        self.busy_gpu_h[week] += busy
        self.serving_gpu_h[week] += power.serving
        self.unserved_gpu_h[week] += power.unserved
        self.installed_gpu_h[week] += installed
        self.held_back_gpu_h[week] += power.held_back
        self.kwh[week] += power.kw(busy + power.serving, installed)
        peak_kw = power.kw(self._peak + power.serving, installed)
        self.peak_kw[week] = np.maximum(self.peak_kw[week], peak_kw)
        over = peak_kw - power.at(self._hour)
        self.over_cap_kw[week] = np.maximum(self.over_cap_kw[week], over)

    def ask(self, run: ScenarioRun) -> None:
        """What who waits and could run at a site loses in an hour, by the GPU-hours that they still need."""
        self.is_held_back[self._hour] = run.power.held_back > 0
        queue, jobs = run.queue, run.jobs
        if not len(queue):
            return
        left_h = np.maximum((jobs.work_s[queue] - run.done_s[queue]) / HOUR_S, 1.0 / HOUR_S)
        gpus = jobs.gpus[queue]
        could = run.may_use[jobs.company[queue]] & (gpus[:, None] <= run.largest[None, :])
        needed_gpu_h = could.T @ (gpus * left_h)
        self.waiting_worth[self._hour] = could.T @ jobs.usd_per_hour[queue] / np.maximum(needed_gpu_h, 1.0)

    def _largest(self, run: ScenarioRun, week: int) -> None:
        """The largest gang that could be started now, and who would have to leave: the least worthy."""
        for site in range(len(run.used)):
            here = run.runs[run.site[run.runs] == site]
            here = here[run.jobs.is_preemptible[here]]
            gpus = run.jobs.gpus[here]
            free = int(run.usable[site] - run.used[site])
            most = min(free + int(gpus.sum()), int(run.largest[site]))
            order = np.argsort(run.worth(here, run.left_h(here)), kind="stable")
            need = most - free
            count = int(np.searchsorted(np.cumsum(gpus[order]), need)) + 1 if need > 0 else 0
            displaced = int(gpus[order[:count]].sum())
            self.largest_gpus[week, site] = most
            self.displaced_jobs[week, site], self.displaced_gpus[week, site] = count, displaced
            price_s = np.array(run.scenario.restart_s)
            usd = run.usd_per_gpu_hour[site]
            self.displaced_usd[week, site] = float(price_usd(np.array(displaced), price_s, usd))

    def close(self, run: ScenarioRun) -> None:
        self.close_hour(run)
        self.gpu_hour_usd = gpu_hour_usd(self.waiting_worth, self.is_held_back)
        self.mwh_usd = mwh_usd(self.waiting_worth, self.is_held_back, run.power.kw_each)
        self.lasts = waits_at_the_end(self.waiting_worth)
        for row in run.queue.tolist():
            self.waited(run.queued_at[row], run.now, run.jobs.usd_per_hour[row], int(run.last_site[row]))
