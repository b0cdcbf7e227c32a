"""The books, the fleet file and what is seen of nodes and runs, as `fleet/` decides upon them; and its
decisions as facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from orchestrator.dispatch.books import Books, month_of
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, MoveMeant, NodeBound, StartMeant, StopMeant, Tally
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.numbering import along_the_tree
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.stop_prices import as_parked, price_of
from orchestrator.fleet.decisions import Decision, Move, Start, Stop
from orchestrator.fleet.jobs import Job, JobState
from orchestrator.fleet.pools import NodeState, Pool
from orchestrator.fleet.record import Ended, Record
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World
from orchestrator.fleet.worth import HOUR_S

Progress = Mapping[str, Tally]


@dataclass(frozen=True)
class Sight:
    """What is seen at one moment. ``nodes`` None: nobody has looked yet, or no cluster answers."""

    nodes: tuple[SeenNode, ...] | None = None
    progress: Progress | None = None


def bindings(books: Books, fleet: FleetFile, nodes: Sequence[SeenNode], now: float) -> list[NodeBound]:
    """Which nodes get which numbers: a node keeps its own, one that comes back has that of its host, and a
    new one the first that nobody alive has, in one pool: of those where it belongs the one that asks for
    most. Of several new ones neighbours get neighbouring numbers."""
    alive = {node.node_id for node in nodes}
    found: list[NodeBound] = []
    sizes = {each.pool.name: each.pool_at(now).nodes for each in fleet.pools}
    used = _in_use(books)  # also of a pool that the file has no more
    taken = {
        slot.node_id
        for (pool, number), slot in books.nodes.items()
        if number < sizes.get(pool, 0) or (pool, number) in used
    }
    for each in sorted(fleet.pools, key=_asks_for_more_first):
        slots = {number: slot for (pool, number), slot in books.nodes.items() if pool == each.pool.name}
        there = each.pool_at(now).nodes
        free = [number for number in range(there) if _is_free(slots.get(number), alive)]
        new = [node for node in nodes if node.node_id not in taken and _belongs(node, each)]
        for node in along_the_tree(new):
            number = next((at for at in free if at in slots and slots[at].host == node.host), None)
            if number is None:
                number = next((at for at in free if at not in slots), free[0] if free else None)
            if number is None:
                break
            free.remove(number)
            taken.add(node.node_id)
            found.append(NodeBound(each.pool.name, number, node.node_id, node.host))
    return found


def _in_use(books: Books) -> set[tuple[str, int]]:
    """Numbers of nodes on which some job is, or is about to be."""
    placements = [entry.job.placement for entry in books.live()]
    return {(one.pool, number) for one in placements if one is not None for number in one.nodes}


def _asks_for_more_first(each: PoolEntry) -> tuple[int, bool, int]:
    return -len(each.labels), each.resource != "GPU", -each.pool.gpus_per_node


def _is_free(slot: object, alive: set[str]) -> bool:
    return slot is None or getattr(slot, "node_id", "") not in alive


def _belongs(node: SeenNode, each: PoolEntry) -> bool:
    has = node.gpus if each.resource == "GPU" else node.cpus
    labels = dict(node.labels)
    here = node.cluster == each.ray_address and has >= each.pool.gpus_per_node
    return here and all(labels.get(key) == value for key, value in each.labels)


def world_of(books: Books, fleet: FleetFile, sight: Sight, now: float) -> World:
    usable = Usable.of(books, sight.nodes or ())
    pools = tuple(_pool(books, each.pool_at(now), usable) for each in fleet.pools)
    by_name = {pool.name: pool for pool in pools}
    reservations = tuple(
        named.reservation for named in books.reservations.values() if named.reservation.until_at > now
    )
    progress = sight.progress or {}
    return World(
        now,
        tuple(_job(entry, progress.get(entry.key), by_name, now) for entry in books.live()),
        pools,
        tuple(_team(books, team, progress, now) for team in fleet.teams),
        reservations,
        tuple(one for each in fleet.pools for one in each.changes_after(now)),
        finished=books.finished,
        record=Record(tuple(_ended(entry) for entry in books.ended)),
    )


def running_in(books: Books) -> list[str]:
    """The jobs whose progress a decision looks at."""
    return [entry.key for entry in books.live() if entry.job.state is JobState.RUNNING]


@dataclass(frozen=True)
class Usable:
    """The ids of nodes that are alive, and the hosts on which nothing is to start."""

    alive: Set[str]
    drained: Set[str]

    @classmethod
    def of(cls, books: Books, nodes: Sequence[SeenNode]) -> Usable:
        bad = {node.host for node in nodes if node.avoided}
        return cls({node.node_id for node in nodes}, books.drained | bad)


def nodes_not_up(books: Books, pool: Pool, usable: Usable) -> list[tuple[int, NodeState]]:
    """A pool's nodes that are down or drained, by their numbers."""
    not_up = []
    for number in range(pool.nodes):
        slot = books.nodes.get((pool.name, number))
        if slot is None or slot.node_id not in usable.alive:
            not_up.append((number, NodeState.DOWN))
        elif slot.host in usable.drained:
            not_up.append((number, NodeState.DRAINING))
    return not_up


def _pool(books: Books, pool: Pool, usable: Usable) -> Pool:
    return replace(pool, not_up=tuple(nodes_not_up(books, pool, usable)))


def _job(entry: Entry, tally: Tally | None, pools: Mapping[str, Pool], now: float) -> Job:
    job = entry.job
    if job.state is JobState.QUEUED and (entry.again_at or 0.0) > now:
        return replace(job, state=JobState.HELD)
    if job.state is JobState.QUEUED and job.parked is not None:
        return as_parked(job, pools, now)
    if tally is not None and job.state is JobState.RUNNING:
        return replace(
            job, step=max(tally.step, tally.saved_step), saved_step=tally.saved_step, saved=tally.saved,
            steps=tally.steps if tally.steps is not None else job.steps,
            step_s=tally.step_s if tally.step_s is not None else job.step_s,
            step_s_in=entry.pool if tally.step_s is not None else job.step_s_in,
            price=price_of(job.spec, job.placement.pool if job.placement else None, tally, job.price),
        )  # fmt: skip
    return job


def _team(books: Books, team: Team, progress: Progress, now: float) -> Team:
    """With what its runs have spent, also since that was counted last."""
    used, month = books.used.get(team.name), books.months.get((team.name, month_of(now)))
    since_usd = sum(
        max(tally.usd - entry.tally.usd, 0.0)
        for key, tally in progress.items()
        if (entry := books.jobs.get(key)) is not None and entry.job.spec.team == team.name
    )
    return replace(
        team,
        used_gpu_s=used.gpu_s if used else 0.0,
        used_at=used.at if used else now,
        spent_usd=(month.usd if month else 0.0) + since_usd,
    )


def _ended(entry: Entry) -> Ended:
    """By the plan of the pool where it ran. In several it was predicted to take so long that each has done
    its part as much slower or faster than planned as the others."""
    spec, plans = entry.job.spec, {plan.pool: plan for plan in entry.job.spec.plans}
    hours = max(entry.job.ran_s, 1.0) / HOUR_S
    ran_in = {pool: ran_s for pool, ran_s in entry.ran_in if pool in plans and ran_s > 0.0}
    if not ran_in:  # its newest plans are of other pools
        plan = spec.plans[0]
        return Ended(spec.team, spec.owner, spec.script, plan.gpus, hours, plan.hours)
    parts = [(ran_s, plans[pool].hours) for pool, ran_s in ran_in.items()]
    predicted_h = None
    if all(planned_h for _, planned_h in parts):
        slower = sum(ran_s / HOUR_S / planned_h for ran_s, planned_h in parts if planned_h)
        predicted_h = sum(ran_s / HOUR_S for ran_s, _ in parts) / slower
    gpus = plans[max(ran_in, key=lambda pool: ran_in[pool])].gpus
    return Ended(spec.team, spec.owner, spec.script, gpus, hours, predicted_h)


def facts_of(decisions: Sequence[Decision]) -> list[Fact]:
    """What is to be written down before anything is done; who waits, and why, is not."""
    facts: list[Fact] = []
    for one in decisions:
        match one:
            case Start():
                start = StartMeant(one.job, one.epoch, one.placement, one.cause, one.worth, one.after)
                facts.append(start)
            case Stop():
                stop = StopMeant(one.job, one.epoch, one.cause, one.price_usd, one.gain_usd, one.for_jobs)
                facts.append(stop)
            case Move():
                move = MoveMeant(
                    one.job, one.epoch, one.placement, one.price_usd, one.gain_usd, one.for_job, one.after
                )
                facts.append(move)
    return facts
