"""The books, the fleet file and what is seen of nodes and runs, as `fleet/` decides upon them; and its
decisions as facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.dispatch.books import Books, month_of
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, MoveMeant, NodeBound, StartMeant, StopMeant, Tally
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.numbering import along_the_tree
from orchestrator.dispatch.seen import SeenNode
from orchestrator.fleet.decisions import Decision, Move, Start, Stop
from orchestrator.fleet.jobs import Job, JobState
from orchestrator.fleet.pools import NodeState, Pool
from orchestrator.fleet.record import Ended, Record
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World

Progress = Mapping[str, Tally]


@dataclass(frozen=True)
class Sight:
    """What is seen at one moment. ``nodes`` None: nobody has looked yet, or no cluster answers."""

    nodes: tuple[SeenNode, ...] | None = None
    progress: Progress | None = None


def bindings(books: Books, fleet: FleetFile, nodes: Sequence[SeenNode]) -> list[NodeBound]:
    """Which nodes get which numbers: a node keeps its own, one that comes back has that of its host, and a
    new one the first that nobody alive has. Of several new ones neighbours get neighbouring numbers."""
    alive = {node.node_id for node in nodes}
    found: list[NodeBound] = []
    taken: set[str] = set()
    for each in fleet.pools:
        slots = {number: slot for (pool, number), slot in books.nodes.items() if pool == each.pool.name}
        kept = {slot.node_id for number, slot in slots.items() if number < each.pool.nodes}
        free = [number for number in range(each.pool.nodes) if _is_free(slots.get(number), alive)]
        new = [node for node in nodes if node.node_id not in taken | kept and _belongs(node, each)]
        taken |= kept
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


def _is_free(slot: object, alive: set[str]) -> bool:
    return slot is None or getattr(slot, "node_id", "") not in alive


def _belongs(node: SeenNode, each: PoolEntry) -> bool:
    has = node.gpus if each.resource == "GPU" else node.cpus
    labels = dict(node.labels)
    here = node.cluster == each.ray_address and has >= each.pool.gpus_per_node
    return here and all(labels.get(key) == value for key, value in each.labels)


def world_of(books: Books, fleet: FleetFile, sight: Sight, now: float) -> World:
    alive = {node.node_id for node in sight.nodes or ()}
    pools = tuple(_pool(books, each.pool, alive) for each in fleet.pools)
    reservations = tuple(
        named.reservation for named in books.reservations.values() if named.reservation.until_at > now
    )
    progress = sight.progress or {}
    return World(
        now,
        tuple(_job(entry, progress.get(entry.key), now) for entry in books.live()),
        pools,
        tuple(_team(books, team, now) for team in fleet.teams),
        reservations,
        finished=frozenset(books.finished),
        record=Record(tuple(_ended(entry) for entry in books.ended)),
    )


def _pool(books: Books, pool: Pool, alive: set[str]) -> Pool:
    not_up = []
    for number in range(pool.nodes):
        slot = books.nodes.get((pool.name, number))
        if slot is None or slot.node_id not in alive:
            not_up.append((number, NodeState.DOWN))
        elif slot.host in books.drained:
            not_up.append((number, NodeState.DRAINING))
    return replace(pool, not_up=tuple(not_up))


def _job(entry: Entry, tally: Tally | None, now: float) -> Job:
    job = entry.job
    if job.state is JobState.QUEUED and (entry.again_at or 0.0) > now:
        return replace(job, state=JobState.HELD)
    if tally is not None and job.state is JobState.RUNNING:
        return replace(
            job, step=max(tally.step, tally.saved_step), saved_step=tally.saved_step, saved=tally.saved,
            steps=tally.steps if tally.steps is not None else job.steps,
            step_s=tally.step_s if tally.step_s is not None else job.step_s, price=tally.price or job.price,
        )  # fmt: skip
    return job


def _team(books: Books, team: Team, now: float) -> Team:
    used, month = books.used.get(team.name), books.months.get((team.name, month_of(now)))
    return replace(
        team,
        used_gpu_s=used.gpu_s if used else 0.0,
        used_at=used.at if used else now,
        spent_usd=month.usd if month else 0.0,
    )


def _ended(entry: Entry) -> Ended:
    spec = entry.job.spec
    plan = spec.plans[0]
    hours = max(entry.job.ran_s, 1.0) / 3600.0
    return Ended(spec.team, spec.owner, spec.script, plan.gpus, hours, plan.hours)


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
