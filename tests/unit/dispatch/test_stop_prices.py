"""What a start costs where nodes still have in memory what a job goes on from, and while they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import (
    Began,
    Fact,
    Left,
    NodeBound,
    NodesLeft,
    StartMeant,
    StopMeant,
    Submitted,
    Tally,
)
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.stop_prices import price_of
from orchestrator.dispatch.world import Sight, world_of
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Start, StartCause, StopCause
from orchestrator.fleet.jobs import Job, JobSpec, Placement, PoolPlan, StopPrice
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World

NOW = 1_000_000.0
PLAN = PoolPlan("gpus", 16, 10.0, load_s=40.0, memory_load_s=0.2, park_s=3600.0)
WHERE = Placement("gpus", (2, 3), (8, 8))
SAVED = Tally(step=20, saved_step=20, saved=True, price=StopPrice(1.0, 2.0, 3.0))


def stopped(plan: PoolPlan = PLAN, tally: Tally = SAVED, *more: Fact) -> Books:
    """A job that has run on two of four nodes and was stopped there for another."""
    books = Books()
    bound = [NodeBound("gpus", number, f"id-{number}", f"node{number}") for number in range(4)]
    ran = [
        Submitted(JobSpec("a", "", (plan,)), "a", "/"),
        StartMeant("a", 1, WHERE, StartCause.WORTH, 1.0),
        Began("a", 1),
        StopMeant("a", 1, StopCause.WORTH, 1.0, 2.0, ()),
        NodesLeft("a", 1),
        Left("a", 1, tally),
    ]
    for fact in (*bound, *ran, *more):
        books.fold(NOW, "x", fact)
    return books


def seen(books: Books, later_s: float = 60.0, gone: tuple[int, ...] = ()) -> World:
    """As it is decided upon so much later, with some nodes gone."""
    nodes = tuple(
        SeenNode(slot.node_id, slot.host, 9.0, 8.0)
        for number, slot in enumerate(books.nodes.values())
        if number not in gone
    )
    fleet = FleetFile(Path(), Path(), (PoolEntry(Pool("gpus", 4, 8)),))
    return world_of(books, fleet, Sight(nodes), NOW + later_s)


def the_job(books: Books, later_s: float = 60.0, gone: tuple[int, ...] = ()) -> Job:
    (job,) = seen(books, later_s, gone).jobs
    return job


def test_a_start_where_it_is_parked_costs_no_load_from_the_disk_and_it_starts_there() -> None:
    world = seen(stopped())
    (job,) = world.jobs
    assert (job.parked, job.price.load_s) == (WHERE, 0.2)
    (start,) = decide(world, Policy())
    assert isinstance(start, Start)
    assert start.placement == WHERE
    other = replace(world, jobs=(replace(job, parked=None),))
    (start,) = decide(other, Policy())
    assert isinstance(start, Start)
    assert start.placement.nodes == (0, 1), "else the first that are free"


@pytest.mark.parametrize(
    ("books", "later_s", "gone"),
    [
        (stopped(), 3600.0, ()),
        (stopped(), 60.0, (3,)),
        (stopped(PLAN, SAVED, NodeBound("gpus", 3, "id-3-again", "node3")), 60.0, ()),
        (stopped(replace(PLAN, park_s=0.0)), 60.0, ()),
        (stopped(PLAN, Tally(step=5)), 60.0, ()),
        (stopped(replace(PLAN, load_s=1.1)), 60.0, ()),
    ],
    ids=["too late", "a node gone", "a node there again", "parks nothing", "nothing saved", "saves little"],
)
def test_else_it_loads_from_the_disk(books: Books, later_s: float, gone: tuple[int, ...]) -> None:
    job = the_job(books, later_s, gone)
    assert job.parked is None
    assert job.price.load_s in (1.1, 40.0)


def test_it_is_parked_no_more_once_it_has_begun_again() -> None:
    again = [StartMeant("a", 2, WHERE, StartCause.WORTH, 1.0), Began("a", 2)]
    entry = stopped(PLAN, SAVED, *again).jobs["a"]
    assert entry.job.parked is None
    assert entry.job.price.load_s == 40.0, "who is stopped may have to load from the disk"


def test_who_has_taken_the_nodes_meanwhile_is_not_waited_for() -> None:
    world = seen(stopped())
    other = Job(
        JobSpec("b", "", (PoolPlan("gpus", 8, 10.0),), preemptible=False), world.jobs[0].state.RUNNING, NOW,
        epoch=1, placement=Placement("gpus", (3,), (8,)), started_at=NOW,
    )  # fmt: skip
    (start,) = decide(replace(world, jobs=(*world.jobs, other)), Policy())
    assert isinstance(start, Start)
    assert start.placement.nodes == (0, 1)


def test_what_was_measured_counts_before_what_the_plan_says() -> None:
    spec = JobSpec("a", "", (PLAN, PoolPlan("other", 8, 1.0)))
    measured = Tally(load_s=9.0, memory_load_s=0.5, price=StopPrice(1.0, 2.0, 3.0, 9.0, 0.5))
    assert price_of(spec, "gpus", measured, StopPrice()) == measured.price
    planned = price_of(spec, "gpus", Tally(price=StopPrice(1.0, 2.0, 3.0)), StopPrice())
    assert planned == StopPrice(1.0, 2.0, 3.0, 40.0, 0.2)
    unknown = price_of(spec, "other", Tally(), StopPrice(load_s=2.0))
    assert unknown.load_s == unknown.memory_load_s == 2.0, "of what nobody has measured nothing is claimed"
