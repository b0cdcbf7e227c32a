"""Scenarios: GPUs and power are conserved at each site, gangs whole, and more never hurts beyond noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from orchestrator.fleet.scenario import WEEK_S, Company, Delivery, Scenario, Serving, Site, Work
from orchestrator.fleet.scenario_draw import (
    draw_deliveries,
    draw_jobs,
    with_more_gpus,
    with_more_power,
)
from orchestrator.fleet.scenario_more import Advice, advice_on_gpus
from orchestrator.fleet.scenario_power import Power
from orchestrator.fleet.scenario_report import delay_by_week, work_rows
from orchestrator.fleet.scenario_run import ScenarioRun, run_scenario

EVENING = tuple(0.6 if 18 <= hour <= 22 else 1.0 for hour in range(24))


def site(name: str, gpus: int, cap_kw: float | None = None, **given) -> Site:
    cap = None if cap_kw is None else tuple(cap_kw * share for share in EVENING)
    facts = {
        "group": name, "usd_per_gpu_hour": 4.0, "kw_per_gpu": 1.25, "idle_kw_per_gpu": 0.25, "pue": 1.2,
        "usd_per_kwh": 0.1, "kg_co2_per_kwh": 0.3, "largest_gang": 1024, "quota": ((0, 0.5), (1, 0.5)),
        "is_open": True,
    }  # fmt: skip
    return Site(name=name, gpus=gpus, cap_kw=cap, **{**facts, **given})


LONG = Work("long", 0.7, 128, 512, 60.0, 0.5, 1.0)
SHORT = Work("short", 0.3, 8, 64, 6.0, 0.7, 4.0, burst=3, weekend=0.5, deadline_factor=3.0)
SMALL = Scenario(
    "small", weeks=2, warmup_weeks=1,
    sites=(
        site("a", 1024, cap_kw=1600.0), site("b", 512), site("c", 768, quota=((1, 1.0),), is_open=False)
    ),
    companies=(Company("x", 1400, 1.0, (0.7, 0.3)), Company("y", 1200, 1.0, (0.7, 0.3))),
    work=(LONG, SHORT),
    deliveries=(Delivery("next week", (1, 2), 512, 1.0, 0.5, 0.5),),
    serving=(Serving("chat", (0,), tuple(64 if 8 <= hour <= 20 else 16 for hour in range(24))),),
)  # fmt: skip


def played(scenario: Scenario, seed: int) -> ScenarioRun:
    return run_scenario(scenario, draw_jobs(scenario, seed), draw_deliveries(scenario, seed))


class Watched(ScenarioRun):
    """Looks at every start and leaving whether the books are right."""

    def start(self, row: int, where: int) -> None:
        assert self.sites_for(row)[where]
        super().start(row, where)
        self.look()

    def leave(self, row: int) -> int:
        found = super().leave(row)
        self.look()
        return found

    def look(self) -> None:
        gpus = np.zeros(len(self.used), int)
        by_company = np.zeros(self.used_by.shape, int)
        np.add.at(gpus, self.site[self.runs], self.jobs.gpus[self.runs])
        np.add.at(by_company, (self.jobs.company[self.runs], self.site[self.runs]), self.jobs.gpus[self.runs])
        assert (gpus == self.used).all()
        assert (by_company == self.used_by).all()
        assert (self.used <= self.installed).all()


@pytest.mark.parametrize("seed", range(2))
def test_gpus_are_conserved_by_site_and_no_gang_is_split(monkeypatch, seed):
    monkeypatch.setattr("orchestrator.fleet.scenario_run.ScenarioRun", Watched)
    run = played(SMALL, seed)
    assert run.stops > 0
    in_queue, runs = set(run.queue.tolist()), set(run.runs.tolist())
    ended = set(np.flatnonzero(~np.isnan(run.ended_at)).tolist())
    assert len(in_queue) + len(runs) + len(ended) == len(run.jobs)  # each is in one of them
    assert in_queue | runs | ended == set(range(len(run.jobs)))


@pytest.mark.parametrize("seed", range(2))
def test_a_cap_is_never_passed_and_who_can_be_stopped_yields_first(seed):
    run = played(SMALL, seed)
    assert run.capped_stops > 0
    assert run.forced_stops == 0  # there was always somebody else to stop
    assert run.tally.over_cap_kw.max() <= 1e-6
    assert (run.tally.held_back_gpu_h[:, 0] > 0).all()


def test_what_cannot_be_stopped_yields_only_when_nothing_else_is_left():
    fixed = dataclasses.replace(LONG, is_preemptible=False)
    run = played(dataclasses.replace(SMALL, work=(fixed, SHORT)), 0)
    assert run.forced_stops > 0
    assert run.tally.over_cap_kw.max() <= 1e-6


def test_the_energy_of_a_week_is_that_of_its_gpus():
    run = played(SMALL, 0)
    busy = run.tally.busy_gpu_h + run.tally.serving_gpu_h
    idle = run.tally.installed_gpu_h - run.tally.held_back_gpu_h - busy
    assert run.tally.kwh == pytest.approx(1.2 * (1.25 * busy + 0.25 * idle))
    done = np.where(np.isnan(run.ended_at), 0.0, run.jobs.work_s) * run.jobs.gpus
    assert done.sum() / 3600 <= run.tally.busy_gpu_h.sum()


def test_serving_comes_before_jobs_and_follows_its_hours():
    run = played(SMALL, 0)
    assert run.tally.serving_gpu_h[:, 0] == pytest.approx([7 * (13 * 64 + 11 * 16)] * 3)
    assert run.tally.unserved_gpu_h.sum() == 0
    dark = dataclasses.replace(SMALL, sites=(site("a", 1024, cap_kw=80.0), *SMALL.sites[1:]))
    assert played(dark, 0).tally.unserved_gpu_h[:, 0].min() > 0  # for 53 GPUs at day


def test_power_keeps_gpus_off_and_serving_takes_of_those_that_are_on():
    power, installed = Power(SMALL), np.array([1024, 512, 768])
    assert power.usable(installed, 9).tolist() == [1024 - 64, 512, 768]
    assert power.usable(installed, 20).tolist() == [640 - 64, 512, 768]  # 960 kW, 1.5 each with the building
    assert power.held_back.tolist() == [1024 - 640, 0, 0]
    assert power.kw(np.array([640, 0, 0]), installed)[0] == pytest.approx(960.0)
    assert power.usable(installed * 2, 20).tolist() == [640 - 64, 1024, 1536]  # more of them draw no more


def test_more_gpus_never_cost_delay_beyond_noise():
    """One may be unlucky: a gang that fits now has the next one wait. The mean of the same seeds is not."""
    before, after = [], []
    for seed in range(3):
        run = played(SMALL, seed)
        more = with_more_gpus(SMALL, 0, 256)
        again = run_scenario(more, run.jobs, draw_deliveries(more, seed))
        before.append(delay_by_week(run).sum())
        after.append(delay_by_week(again).sum())
    assert np.mean(after) < np.mean(before) * 1.02
    plenty = with_more_gpus(SMALL, 1, 4096)
    assert delay_by_week(played(plenty, 0)).sum() < before[0] / 3


def test_the_same_seed_draws_the_same_jobs_whatever_is_added():
    one, other = draw_jobs(SMALL, 3), draw_jobs(with_more_power(with_more_gpus(SMALL, 0, 8), 0, 50.0), 3)
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))
    assert not np.array_equal(one.submit_s, draw_jobs(SMALL, 4).submit_s)


def test_work_comes_to_what_the_companies_ask_for():
    jobs = draw_jobs(dataclasses.replace(SMALL, weeks=51, gpu_hours_per_failure=math.inf), 0)
    gpus = (jobs.gpus * jobs.work_s).sum() / (52 * WEEK_S)
    assert gpus == pytest.approx(2600, rel=0.05)
    assert (jobs.failures == 0).all()
    failing = draw_jobs(SMALL, 0)
    hours = (failing.gpus * (failing.work_s - failing.failures * 1800.0)).sum() / 3600
    assert failing.failures.sum() == pytest.approx(hours / 50_700, rel=0.5)


def test_fewer_come_at_a_weekend():
    jobs = draw_jobs(dataclasses.replace(SMALL, weeks=51), 0)
    weekday = (jobs.submit_s // 86400 % 7).astype(int)
    short = jobs.kind == 1
    each_day = np.bincount(weekday[short], minlength=7)
    assert each_day[5:].mean() == pytest.approx(each_day[:5].mean() / 2, rel=0.15)


def test_a_delivery_slips_as_often_as_its_odds():
    order = Delivery("o", (0, 1), 24, 0.0, 0.4, 1.0)
    scenario = dataclasses.replace(SMALL, weeks=30, deliveries=(order,))
    found = [draw_deliveries(scenario, seed) for seed in range(400)]
    at = np.array([arrivals[0].at_s for arrivals in found]) / WEEK_S - 1
    assert (at == 0).mean() == pytest.approx(0.6, abs=0.08)
    assert (at == 1).mean() == pytest.approx(0.24, abs=0.07)
    assert [(one.site, one.gpus) for one in found[0]] == [(0, 16), (1, 8)]
    never = dataclasses.replace(order, odds_of_slipping=1.0)
    assert draw_deliveries(dataclasses.replace(scenario, deliveries=(never,)), 0) == []


def test_a_gpu_hour_is_worth_something_where_somebody_waits_and_power_where_it_is_short():
    run = played(SMALL, 0)
    gpus, power = run.tally.gpu_hour_usd, run.tally.mwh_usd
    assert (gpus[:2] > 0).all()
    assert (power[:, 0] > 0).any()
    assert (power[:, 1:] == 0).all()  # no cap
    idle = dataclasses.replace(
        SMALL, companies=(Company("x", 100, 1.0, (0.0, 1.0)), Company("y", 8, 1.0, (0.0, 1.0)))
    )
    assert played(idle, 0).tally.gpu_hour_usd.max() < gpus.min() / 10


def test_an_hour_more_at_once_is_worth_what_running_again_says():
    """With small gangs the estimate from one run and the difference of two agree."""
    small = dataclasses.replace(LONG, least_gpus=8, most_gpus=16, median_hours=20.0)
    scenario = dataclasses.replace(
        SMALL, work=(small, dataclasses.replace(SHORT, share=0.0)), serving=(), deliveries=(),
        sites=(site("a", 512),), gpu_hours_per_failure=math.inf,
        companies=(Company("x", 320, 1.0, (1.0, 0.0)), Company("y", 320, 1.0, (1.0, 0.0))),
    )  # fmt: skip
    said, measured = [], []
    for seed in range(2):
        run = played(scenario, seed)
        more = with_more_gpus(scenario, 0, 16)
        again = run_scenario(more, run.jobs, draw_deliveries(more, seed))
        said.append(run.tally.gpu_hour_usd[1:].mean())
        measured.append((delay_by_week(run) - delay_by_week(again)).sum() / (16 * 2 * 168))
    assert np.mean(measured) / 2 < np.mean(said) < np.mean(measured) * 2


@pytest.mark.parametrize(
    ("saves", "lasts", "owned", "rent", "advice"),
    [
        (5.0, 1.0, 1.2, 4.0, Advice.BUY),
        (5.0, 0.1, 1.2, 4.0, Advice.RENT),  # the need ends
        (2.0, 0.1, 1.2, 4.0, Advice.WAIT),
        (5.0, 1.0, 4.5, 4.0, Advice.RENT),  # owning is dearer
        (1.0, 1.0, 1.2, 4.0, Advice.WAIT),
    ],
)
def test_buy_rent_or_wait(saves, lasts, owned, rent, advice):
    assert advice_on_gpus(saves, lasts, owned, rent) is advice


def test_what_is_worth_more_waits_less():
    runs = [played(SMALL, seed) for seed in range(2)]
    long, short = work_rows(runs)
    assert short.wait_p90_h.mid < long.wait_p90_h.mid
    assert long.deadlines_met is None
    assert 0.0 < short.deadlines_met.low <= 1.0
    assert long.jobs.low <= long.jobs.mid <= long.jobs.high
