"""A world run forward: as the simulator does where both can, and what only it looks at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.fleet import forward
from orchestrator.fleet.contest import Setting, play
from orchestrator.fleet.forward import Course, Forward, outset_of
from orchestrator.fleet.jobs import Job, JobSpec, JobState, PoolPlan, StopPrice
from orchestrator.fleet.pools import CapacityChange, NodeState, Pool, Reservation
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World
from tests.support.fleet_traces import drawn
from tests.support.fleet_worlds import NOW, POOL, queued, running, world

FREE = StopPrice(stop_s=0.0, write_s=0.0, start_s=0.0, load_s=0.0)
HOUR_S = 3600.0


def went(of: World, /, **hours: float) -> dict[str, tuple[float, float]]:
    """When each began and ended, in hours from now: those who are not named take what was planned."""
    of = replace(of, jobs=tuple(replace(job, price=FREE) for job in of.jobs))
    outset = outset_of(of, Policy())
    keys = [job.key for job in outset.facts.jobs]
    left_h = np.array(
        [hours.get(key, planned) for key, planned in zip(keys, outset.stand.left_h, strict=True)]
    )
    course = Forward(outset, Policy(), left_h).run()
    return {key: _hours(course, row) for row, key in enumerate(keys)}


def _hours(course: Course, row: int) -> tuple[float, float]:
    times = course.started_at[row], course.ended_at[row]
    return tuple(round(float((at - NOW) / HOUR_S), 3) for at in times)  # type: ignore[return-value]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_plays_a_trace_as_the_simulator_does(seed, monkeypatch):
    monkeypatch.setattr(forward, "_MOST_ROUNDS", 1)  # which does not ask again at the same moment
    trace = drawn(120, seed=seed, load=4.0)
    setting = Setting(gpus=64, restart_s=0.0, told_sigma=0.0)
    run = play(trace, setting, "ours", seed)
    told = np.random.default_rng(seed).standard_normal((2, len(trace)))[0]
    jobs = [
        Job(
            JobSpec(f"{row:05d}", "", (PoolPlan("h100", one.gpus, one.duration_s * np.exp(0.5 * told[row]) / HOUR_S),)),
            JobState.QUEUED, one.submit_s, price=FREE,
        )
        for row, one in enumerate(trace)
    ]  # fmt: skip
    outset = outset_of(World(0.0, tuple(jobs), (Pool("h100", 64, 1),)), Policy())
    course = Forward(outset, Policy(), np.array([one.duration_s / HOUR_S for one in trace])).run()
    assert course.ended_at == pytest.approx(run.ended_at, abs=0.01)
    assert int(course.stops.sum()) == run.preemptions > 20


def test_the_worthier_takes_the_gpus_of_who_runs_and_what_really_is_left_counts():
    everywhere = ((0, 8), (1, 8), (2, 8), (3, 8))
    jobs = running("long", *everywhere, hours=11.0, since_s=HOUR_S), queued("short", 32, 1.0)
    assert went(world(*jobs)) == {"long": (-1.0, 11.0), "short": (0.0, 1.0)}
    assert went(world(*jobs), short=4.0) == {"long": (-1.0, 14.0), "short": (0.0, 4.0)}
    assert went(world(*jobs), long=0.2)["long"] == (-1.0, 0.2)  # its steps say so


def test_what_depends_on_another_starts_when_that_has_ended_and_never_where_that_cannot():
    found = went(
        world(
            queued("a", 8, 2.0),
            queued("b", 8, 1.0, depends_on=("a",)),
            queued("c", 8, 1.0, depends_on=("x",)),
        )
    )
    assert found["b"] == (2.0, 3.0)
    assert found["c"] == (np.inf, np.inf)


def test_capacity_that_comes_and_goes():
    grows = (CapacityChange("h100", 4, NOW + 2 * HOUR_S),)
    assert went(world(queued("wide", 64, 1.0), changes=grows))["wide"] == (2.0, 3.0)
    shrinks = (CapacityChange("h100", -3, NOW + 1 * HOUR_S), CapacityChange("h100", 3, NOW + 5 * HOUR_S))
    assert went(world(queued("wide", 32, 2.0), changes=shrinks))["wide"] == (0.0, 6.0)
    opens = replace(POOL, from_at=NOW + HOUR_S)
    assert went(world(queued("j", 8, 1.0), pool=opens))["j"] == (1.0, 2.0)


def test_what_runs_on_a_node_that_drains_ends_there_and_gives_its_gpus_to_nobody():
    draining = replace(POOL, nodes=1, not_up=((0, NodeState.DRAINING),))
    found = went(world(running("r", (0, 4), hours=2.0, since_s=HOUR_S), queued("j", 2, 1.0), pool=draining))
    assert found["r"][1] == 1.0
    assert found["j"] == (np.inf, np.inf)


def test_a_quota_is_back_and_a_reservation_that_comes_is_kept():
    teams = (Team("nlp"), Team("cv", quota=(("h100", 32),)))
    jobs = (
        running("b", (0, 8), (1, 8), (2, 8), (3, 8), usd_per_hour=1000.0, hours=2.0),
        queued("own", 32, 50.0, team="cv"),
    )
    assert went(world(*jobs, teams=teams))["own"] == (0.0, 50.0)
    kept = (Reservation("h100", 4, NOW + HOUR_S, NOW + 1e6, job="demo"),)
    jobs = queued("now", 32, 4.0, usd_per_hour=100.0), queued("demo", 32, 40.0)
    found = went(world(*jobs, reservations=kept))
    assert found["demo"] == (1.0, 41.0)
    assert found["now"] == (0.0, 44.0)


def test_the_coarser_is_close_and_asks_less():
    jobs = tuple(replace(queued(f"{row:03d}", 8, 1.0 + row % 7), price=FREE) for row in range(200))
    outset = outset_of(world(*jobs), Policy())
    fine, coarse = (Forward(outset, Policy(), outset.stand.left_h, share).run() for share in (0.0, 0.02))
    assert coarse.ended_at.mean() == pytest.approx(fine.ended_at.mean(), rel=0.02)
