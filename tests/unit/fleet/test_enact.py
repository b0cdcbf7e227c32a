"""A fleet enacted with nodes is the one that is run forward by count, where nothing is fragmented."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.fleet.enact import Enacted, Life
from orchestrator.fleet.forward import Forward, outset_of
from orchestrator.fleet.jobs import Job, JobSpec, JobState, PoolPlan, StopPrice
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World
from tests.support.fleet_traces import drawn
from tests.support.fleet_worlds import NOW, queued, running, world

HOUR_S = 3600.0


def _lives(of: World) -> dict[str, Life]:
    return Enacted.of(of, Policy(), {job.key: job.spec.plans[0].hours or 0.0 for job in of.jobs}).run()


@pytest.mark.parametrize("seed", [1, 2])
def test_it_ends_jobs_when_a_run_by_count_does(seed):
    rng = np.random.default_rng(seed)
    jobs = [
        Job(
            JobSpec(
                f"{row:04d}", str(rng.choice(["nlp", "cv", "new"])),
                (PoolPlan("h100", 8 * min(one.gpus, 4), one.duration_s / HOUR_S),),
                usd_per_hour=float(rng.choice([1.0, 10.0])),
                deadline_at=one.submit_s + 3 * one.duration_s + 7200.0 if rng.random() < 0.3 else None,
            ),
            JobState.QUEUED, one.submit_s, price=StopPrice(0.0, 0.0, 3.0, 0.0),
        )
        for row, one in enumerate(drawn(80, seed=seed, load=4.0))
    ]  # fmt: skip
    teams = Team("nlp", quota=(("h100", 24),)), Team("cv", quota=(("h100", 16),), borrow_limit=32)
    of = World(0.0, tuple(jobs), (Pool("h100", 8, 8),), teams)
    lives = _lives(of)
    outset = outset_of(of, Policy())
    left_h = np.array([job.spec.plans[0].hours for job in outset.facts.jobs])
    course = Forward(outset, Policy(), left_h).run()
    enacted = np.array([lives[job.key].ended_at for job in outset.facts.jobs])
    assert np.isfinite(enacted).all()
    near = np.abs(enacted - course.ended_at) <= 0.02 * (course.ended_at - outset.facts.submitted_at) + 1.0
    assert near.mean() >= 0.9
    jct_s = [ended.mean() - outset.facts.submitted_at.mean() for ended in (enacted, course.ended_at)]
    assert jct_s[0] == pytest.approx(jct_s[1], rel=0.02)
    assert sum(life.stops for life in lives.values()) > 10


def test_a_stop_a_move_and_what_they_cost():
    jobs = [
        replace(running(f"r{node}", (node, 4), hours=5.0), price=StopPrice(1.0, 0.0, 9.0, 0.0))
        for node in range(4)
    ]
    wide = replace(queued("wide", 8, 1.0), price=StopPrice(0.0, 0.0, 0.0, 0.0))
    enacted = Enacted.of(
        world(*jobs, wide), Policy(), {**{f"r{node}": 5.0 for node in range(4)}, "wide": 1.0}
    )
    lives = enacted.run()
    assert sum(life.moves for life in lives.values()) == 1
    ends = sorted(round(lives[f"r{node}"].ended_at - NOW) for node in range(4))
    assert ends[:3] == [18000] * 3
    assert ends[3] == 18000 + 10
    assert lives["wide"].ended_at == pytest.approx(NOW + 3600 + 1)
