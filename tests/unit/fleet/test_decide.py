"""What is decided: a sentence for each rule, and what holds in any world."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from orchestrator.fleet.after import after, settled
from orchestrator.fleet.books import Books, books_of
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Decision, Hold, HoldCause, Move, Start, StartCause, Stop, StopCause
from orchestrator.fleet.jobs import HAS_NODES, JobState, PoolPlan
from orchestrator.fleet.pools import CapacityChange, NodeState, Pool, Reservation, leaves_at
from orchestrator.fleet.record import Ended, Record
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World
from tests.support.fleet_worlds import NOW, POOL, queued, running, used, world, worlds

POLICY = Policy()


def _decide(of: World) -> dict[str, Decision]:
    found = decide(of, POLICY)
    assert len({one.job for one in found}) == len(found)
    return {one.job: one for one in found}


def _there_still(written: World, pool: str, node: int, but: tuple[str, ...]) -> int:
    """GPUs of those who are on a node and have not been told to begin anything, once some have left it."""
    here = 0
    for job in written.jobs:
        sits = job.leaving if job.state is JobState.STARTING else job.placement
        if sits is not None and sits.pool == pool and job.key not in but:
            here += sum(count for at, count in zip(sits.nodes, sits.gpus, strict=True) if at == node)
    return here


def _stays_where_it_is(start: Start, of: World, books: Books) -> None:
    """Who cannot be stopped ends before any of its nodes leaves."""
    row = next(row for row, job in enumerate(books.jobs) if job.key == start.job)
    if books.preemptible[row]:
        return
    pool = next(pool for pool in of.pools if pool.name == start.placement.pool)
    ends_at = NOW + float(books.left_h[row]) * 3600.0
    assert min(leaves_at(pool, of.changes)[list(start.placement.nodes)]) >= ends_at


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_who_has_gpus_has_them_whatever_its_plans_say(of):
    """As when somebody moves a job to other pools while it runs: its GPUs are given to nobody else."""
    elsewhere = tuple(
        replace(job, spec=replace(job.spec, plans=(PoolPlan("elsewhere", 1, 1.0),)))
        if job.state in HAS_NODES
        else job
        for job in of.jobs
    )
    moved = replace(of, jobs=elsewhere)
    written = after(moved, decide(moved, POLICY))
    capacity = {pool.name: pool.gpus_per_node for pool in of.pools}
    assert all(gpus <= capacity[pool] for (pool, _), gpus in used(written).items())


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_in_any_world(of):
    decisions = decide(of, POLICY)
    named = [one.job for one in decisions]
    assert len(set(named)) == len(named)
    waits = {job.key for job in of.jobs if job.state is JobState.QUEUED}
    assert waits <= set(named)
    books = books_of(of, POLICY)
    pinned = {job.key for job, until in zip(books.jobs, books.pinned_until, strict=True) if until > NOW}
    assert not {one.job for one in decisions if isinstance(one, Stop | Move)} & pinned
    written = after(of, decisions)
    for (name, node), gpus in used(written).items():
        pool = next(pool for pool in of.pools if pool.name == name)
        assert gpus <= pool.gpus_per_node
        assert node < pool.nodes
    jobs = {job.key: job for job in of.jobs}
    for one in decisions:
        if isinstance(one, Start):
            assert jobs[one.job].state is JobState.QUEUED
            assert one.epoch == jobs[one.job].epoch + 1
            _stays_where_it_is(one, of, books)
            plan = next(plan for plan in jobs[one.job].spec.plans if plan.pool == one.placement.pool)
            assert sum(one.placement.gpus) == plan.gpus
            for node, gpus in zip(one.placement.nodes, one.placement.gpus, strict=True):
                assert gpus + _there_still(written, one.placement.pool, node, one.after) <= 8


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_asked_again_before_anything_happens_it_changes_nothing_and_nobody_stops_who_was_just_started(of):
    decisions = decide(of, POLICY)
    written = after(of, decisions)
    assert all(isinstance(one, Hold) for one in decide(written, POLICY))
    started = {one.job for one in decisions if isinstance(one, Start)}
    for later_s in (0.0, POLICY.min_run_s - 1.0):
        done = replace(settled(written), now=NOW + later_s)
        assert not {one.job for one in decide(done, POLICY) if isinstance(one, Stop | Move)} & started


def test_the_worthier_starts_and_the_other_is_told_who_is_ahead():
    found = _decide(world(queued("long", 32, 10.0), queued("short", 32, 1.0)))
    assert isinstance(found["short"], Start)
    assert found["short"].placement.nodes == (0, 1, 2, 3)
    assert found["long"] == Hold("long", HoldCause.AHEAD, found["long"].worth, ("short",), 32)


def test_dollars_of_delay_outweigh_length_and_a_class_that_goes_first_outweighs_both():
    jobs = [queued("short", 32, 1.0), queued("dear", 32, 10.0, usd_per_hour=100.0)]
    assert isinstance(_decide(world(*jobs))["dear"], Start)
    assert isinstance(_decide(world(*jobs, queued("first", 32, 500.0, rank=1)))["first"], Start)


def test_who_is_worth_more_takes_the_gpus_of_who_is_worth_less_and_waits_until_it_has_left():
    found = _decide(
        world(running("long", (0, 8), (1, 8), (2, 8), (3, 8), hours=100.0), queued("short", 8, 1.0))
    )
    stop, start = found["long"], found["short"]
    assert isinstance(stop, Stop)
    assert (stop.cause, stop.for_jobs, stop.epoch) == (StopCause.WORTH, ("short",), 1)
    assert 0 < stop.price_usd < stop.gain_usd
    assert isinstance(start, Start)
    assert start.after == ("long",)


def test_only_as_many_stop_as_the_start_needs_the_least_worthy_first():
    jobs = [running(f"r{node}", (node, 8), hours=100.0 + node) for node in range(4)]
    found = _decide(world(*jobs, queued("short", 16, 1.0)))
    assert {key for key, one in found.items() if isinstance(one, Stop)} == {"r2", "r3"}


def test_nobody_is_stopped_who_must_not_be():
    short = queued("short", 32, 0.1)
    everywhere = ((0, 8), (1, 8), (2, 8), (3, 8))
    for job in (
        running("r", *everywhere, since_s=100.0),  # within its least time
        running("r", *everywhere, saved=False),  # before its first checkpoint
        running("r", *everywhere, preemptible=False),
    ):
        assert _decide(world(job, short))["short"].cause is HoldCause.PINNED
    young = _decide(world(running("r", *everywhere, since_s=100.0), short))["short"]
    assert young.until_at == NOW + 50.0


def test_who_has_saved_nothing_yet_may_be_stopped_where_the_policy_says_so():
    new, short = running("r", (0, 8), (1, 8), (2, 8), (3, 8), saved=False), queued("short", 32, 0.1)
    policy = replace(POLICY, stop_unsaved=True)
    assert [type(one) for one in decide(world(new, short), policy)] == [Stop, Start]
    for job in (
        replace(new, started_at=NOW - 100.0),
        replace(new, spec=replace(new.spec, preemptible=False)),
    ):
        assert not any(isinstance(one, Stop) for one in decide(world(job, short), policy))


def test_a_stop_that_costs_more_than_it_gains_is_not_made():
    unsaved = replace(
        running("r", (0, 8), (1, 8), (2, 8), (3, 8), hours=2.0, since_s=360_000.0),
        step=1000,
        saved_step=0,
        step_s=3.6,
    )
    found = _decide(world(unsaved, queued("other", 32, 1.0)))["other"]
    assert found.cause is HoldCause.PRICE
    assert found.behind == ("r",)
    assert found.gain_usd <= found.price_usd


def test_a_quota_is_back_from_who_borrowed_it_however_worthy():
    teams = (Team("nlp"), Team("cv", quota=(("h100", 16),)))
    borrower = running("b", (0, 8), (1, 8), (2, 8), (3, 8), usd_per_hour=1000.0)
    found = _decide(world(borrower, queued("own", 16, 100.0, team="cv"), teams=teams))
    assert found["b"].cause is StopCause.QUOTA
    assert found["own"].cause is StartCause.QUOTA
    beyond = _decide(world(borrower, queued("own", 24, 100.0, team="cv"), teams=teams))
    assert isinstance(beyond["own"], Hold)


def test_a_team_borrows_up_to_its_limit():
    teams = (Team("nlp", quota=(("h100", 8),), borrow_limit=8),)
    found = _decide(world(*(queued(f"j{at}", 8, ago_s=9.0 - at) for at in range(3)), teams=teams))
    assert [type(found[f"j{at}"]) for at in range(3)] == [Start, Start, Hold]
    assert found["j2"].cause is HoldCause.QUOTA


def test_a_reservation_is_lent_to_who_can_be_stopped_and_to_nobody_else():
    kept = (Reservation("h100", 4, NOW - 1, NOW + 1e5, job="demo"),)
    assert isinstance(_decide(world(queued("j", 32), reservations=kept))["j"], Start)
    assert isinstance(_decide(world(queued("j", 32, preemptible=False), reservations=kept))["j"], Hold)
    found = _decide(world(running("j", (0, 8)), queued("demo", 32, 1000.0), reservations=kept))
    assert found["j"].cause is StopCause.RESERVED
    later = (replace(kept[0], from_at=NOW + 10),)
    assert isinstance(
        _decide(world(running("j", (0, 8)), queued("demo", 32, 1000.0), reservations=later))["demo"], Hold
    )


def test_who_cannot_be_stopped_passes_the_first_in_line_only_if_it_ends_before_that_could_start():
    pinned = running("r", (0, 8), (1, 8), hours=3.0, since_s=3600.0, preemptible=False)  # two hours left
    first = queued("first", 32, 1.0, usd_per_hour=1000.0)
    for hours, passes in ((1.5, True), (5.0, False)):
        found = _decide(world(pinned, first, queued("next", 16, hours, preemptible=False)))
        assert isinstance(found["next"], Start) is passes
    assert isinstance(_decide(world(pinned, first, queued("next", 16, 5.0)))["next"], Start)


def test_a_gang_for_which_there_is_room_but_no_node_gets_one_by_the_fewest_moves():
    jobs = [running(f"r{node}", (node, 4), hours=1.0) for node in range(4)]
    found = _decide(world(*jobs, queued("wide", 8, 1.0)))
    moves = [one for one in found.values() if isinstance(one, Move)]
    assert len(moves) == 1
    assert moves[0].for_job == "wide"
    assert moves[0].job in moves[0].after
    assert moves[0].job in found["wide"].after
    stuck = [replace(job, saved=False) for job in jobs]
    assert _decide(world(*stuck, queued("wide", 8, 1.0)))["wide"].cause is HoldCause.FRAGMENTED


def test_a_small_gang_takes_the_node_that_it_fits_best():
    found = _decide(world(running("r", (2, 5)), queued("j", 2)))
    assert found["j"].placement.nodes == (2,)


def test_the_cheapest_pool_that_meets_the_deadline():
    pools = (Pool("h100", 4, 8, 4.0), Pool("a100", 4, 8, 1.0))
    plans = (PoolPlan("h100", 8, 1.0), PoolPlan("a100", 8, 3.0))
    job = queued("j", 8)
    for hours, pool in ((9.0, "a100"), (2.0, "h100")):
        spec = replace(job.spec, plans=plans, deadline_at=NOW + hours * 3600)
        [start] = decide(World(NOW, (replace(job, spec=spec),), pools), POLICY)
        assert start.placement.pool == pool


def test_a_deadline_that_is_near_goes_first_while_it_can_be_met():
    soon = {"deadline_at": NOW + 3600 * 5.2}
    jobs = [queued("short", 32, 1.0), queued("due", 32, 5.0, **soon)]
    assert isinstance(_decide(world(*jobs))["due"], Start)
    lost = [jobs[0], queued("due", 32, 6.0, **soon)]
    assert isinstance(_decide(world(*lost))["short"], Start)


def test_a_team_s_record_corrects_what_is_predicted():
    record = Record(tuple(Ended("nlp", "", "", 8, 10.0, 1.0) for _ in range(20)))
    jobs = [queued("nlp", 32, 1.0), queued("cv", 32, 3.0, team="cv")]
    assert isinstance(_decide(world(*jobs))["nlp"], Start)
    assert isinstance(_decide(world(*jobs, record=record))["cv"], Start)


def test_where_nobody_knows_durations_who_has_run_for_long_yields():
    record = Record(
        tuple(Ended("nlp", "", "", 32, hours) for hours in (0.05, 0.1, 0.1, 0.2, 0.5, 5.0, 40.0, 80.0))
    )
    old = running("old", (0, 8), (1, 8), (2, 8), (3, 8), since_s=80_000.0)
    old = replace(old, spec=replace(old.spec, plans=(PoolPlan("h100", 32, None),)))
    found = _decide(world(old, queued("new", 32, None), record=record))
    assert isinstance(found["old"], Stop)


def test_what_waits_for_something_else_is_told_so():
    held = replace(queued("held", 8), state=JobState.HELD)
    teams = (Team("nlp"), Team("cv", usd_per_month=100.0, spent_usd=100.0))
    found = _decide(
        world(
            held,
            queued("after", 8, depends_on=("x", "y")),
            queued("spent", 8, team="cv"),
            queued("huge", 64),
            queued("last", 8, depends_on=("y",)),
            teams=teams,
            finished=frozenset({"y"}),
        )
    )
    causes = {key: one.cause for key, one in found.items() if isinstance(one, Hold)}
    assert causes == {
        "held": HoldCause.HELD,
        "after": HoldCause.DEPENDS,
        "spent": HoldCause.BUDGET,
        "huge": HoldCause.TOO_LARGE,
    }
    assert found["after"].behind == ("x",)
    assert isinstance(found["last"], Start)


def test_nothing_starts_on_a_node_that_drains_and_what_is_on_lost_nodes_stops():
    draining = replace(POOL, not_up=((1, NodeState.DRAINING),))
    found = _decide(
        world(running("r", (1, 8)), queued("j", 24, usd_per_hour=100.0), queued("more", 8), pool=draining)
    )
    assert found["j"].placement.nodes == (0, 2, 3)
    assert isinstance(found["more"], Hold)
    assert "r" not in found
    smaller = replace(POOL, nodes=2)
    found = _decide(world(running("gone", (2, 8), (1, 8)), queued("j", 8), pool=smaller))
    assert found["gone"].cause is StopCause.NODE
    assert isinstance(found["j"], Start)


def test_gpus_of_who_is_stopping_are_given_but_not_before_it_has_left():
    stopping = replace(running("s", (0, 8), (1, 8), (2, 8), (3, 8)), state=JobState.STOPPING)
    found = _decide(world(stopping, queued("j", 8)))
    assert found["j"].after == ("s",)
    assert set(found) == {"j"}


def test_who_cannot_be_stopped_does_not_start_into_a_reservation_or_on_nodes_that_leave():
    long, short = queued("long", 16, 5.0, preemptible=False), queued("short", 16, 1.0, preemptible=False)
    kept = (Reservation("h100", 3, NOW + 7200, NOW + 1e5, job="demo"),)
    leave = (CapacityChange("h100", -3, NOW + 7200),)
    for more in ({"reservations": kept}, {"changes": leave}):
        found = _decide(world(long, **more))["long"]
        assert (found.cause, found.until_at) == (HoldCause.RESERVED, NOW + 7200)
        assert isinstance(_decide(world(short, **more))["short"], Start)
        assert isinstance(_decide(world(queued("long", 16, 5.0), **more))["long"], Start)
        assert isinstance(_decide(world(queued("long", 8, 5.0, preemptible=False), **more))["long"], Start)
    own = queued("demo", 24, 5.0, preemptible=False)
    assert isinstance(_decide(world(own, reservations=kept))["demo"], Start)
    quota = (Team("nlp", quota=(("h100", 16),)),)
    assert _decide(world(long, reservations=kept, teams=quota))["long"].cause is HoldCause.RESERVED
    of_team = (Reservation("h100", 3, NOW + 7200, NOW + 1e5, team="nlp"),)
    assert isinstance(_decide(world(long, reservations=of_team))["long"], Start)


def test_nodes_that_leave_are_taken_last_and_a_pool_that_grows_has_a_time_from_which_a_gang_fits():
    leave = (CapacityChange("h100", -2, NOW + 7200),)
    jobs = running("a", (0, 8), saved=False), queued("j", 4), queued("k", 8)
    found = _decide(world(*jobs, pool=replace(POOL, nodes=4), changes=leave))
    assert found["k"].placement.nodes == (1,)
    assert found["j"].placement.nodes == (2,)
    grows = (CapacityChange("h100", 2, NOW + 60), CapacityChange("h100", 2, NOW + 120))
    huge = _decide(world(queued("huge", 64), changes=grows))["huge"]
    assert (huge.cause, huge.until_at) == (HoldCause.TOO_LARGE, NOW + 120)
    later = _decide(world(queued("j", 8), pool=replace(POOL, from_at=NOW + 60)))["j"]
    assert (later.cause, later.until_at) == (HoldCause.TOO_LARGE, NOW + 60)


def test_who_cannot_be_stopped_does_not_start_on_a_node_that_leaves_though_others_would_do():
    leave = (CapacityChange("h100", -1, NOW + 7200),)
    there = [running(f"r{node}", (node, 8), saved=False) for node in range(3)]  # pinned, and can be stopped
    long = queued("long", 8, 5.0, preemptible=False)
    found = _decide(world(*there, long, changes=leave))["long"]
    assert (found.cause, found.until_at) == (HoldCause.RESERVED, NOW + 7200)
    for other in (queued("long", 8, 5.0), queued("long", 8, 1.0, preemptible=False)):
        started = _decide(world(*there, other, changes=leave))["long"]
        assert isinstance(started, Start)
        assert started.placement.nodes == (3,)


def test_who_can_be_stopped_makes_room_for_who_cannot_on_a_node_that_leaves():
    leave = (CapacityChange("h100", -1, NOW + 7200),)
    there = [running(f"r{node}", (node, 8), saved=False) for node in range(2)]
    small = running("small", (2, 4), since_s=36_000.0)
    found = _decide(
        world(*there, small, queued("long", 8, 5.0, preemptible=False, usd_per_hour=1e4), changes=leave)
    )
    assert found["small"].placement.nodes == (3,)
    assert found["long"].placement.nodes == (2,)
