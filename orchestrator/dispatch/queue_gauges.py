"""How the queue stands, for those who watch it: `STATE_DIR/gauges.json`, written by the daemon and shown by
the process that is connected to Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator import papers
from orchestrator.dispatch.books import Books, month_of
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.world import Usable, nodes_not_up
from orchestrator.files import atomic_write
from orchestrator.fleet.jobs import JobState
from orchestrator.fleet.pools import NodeState, Pool
from orchestrator.ledger.monitoring.gauges import Series

NAME = "gauges.json"
EVERYBODY = "everybody"  # the team of those who submit without one
_STATES = (JobState.QUEUED, JobState.HELD, JobState.STARTING, JobState.RUNNING, JobState.STOPPING)
# A daemon that has written nothing for so long does not lead any more.
_STALE_S = 30.0


def queue_values(
    books: Books, fleet: FleetFile, nodes: Sequence[SeenNode] | None, now: float, named: bool
) -> dict[Series, float]:
    """Every line of every gauge of the queue. Without ``named`` teams and pools are told by their places in
    the fleet file: whoever reaches a node reads them."""
    teams = [team.name for team in fleet.teams] or [""]
    pools = [each.pool_at(now) for each in fleet.pools]
    team_called = _called([*teams, *_others(books, teams)], named)
    pool_called = _called([pool.name for pool in pools], named)
    found = _jobs(books, team_called)
    found |= _gpus(books, fleet, team_called, pool_called)
    found |= _months(books, fleet, team_called, now)
    usable = Usable.of(books, nodes or ())
    for pool in pools:
        found |= _nodes(books, pool, usable, pool_called[pool.name])
    waiting = [entry.job.submitted_at for entry in books.live() if entry.job.state is JobState.QUEUED]
    longest_s = max(now - min(waiting), 0.0) if waiting else 0.0
    return {**found, Series("orchestrator_queue_longest_wait_s"): longest_s}


def _called(names: Iterable[str], named: bool) -> dict[str, str]:
    return {name: (name or EVERYBODY) if named else str(at) for at, name in enumerate(names, 1)}


def _others(books: Books, teams: list[str]) -> list[str]:
    """Teams of jobs that are not in the file any more."""
    return sorted({entry.job.spec.team for entry in books.live()} - set(teams))


def _jobs(books: Books, called: dict[str, str]) -> dict[Series, float]:
    counted = Counter((entry.job.spec.team, entry.job.state) for entry in books.live())
    return {
        Series("orchestrator_queue_jobs", (called[team], state.value)): float(counted[team, state])
        for team in called
        for state in _STATES
    }


def _gpus(
    books: Books, fleet: FleetFile, teams: dict[str, str], pools: dict[str, str]
) -> dict[Series, float]:
    has: Counter[tuple[str, str]] = Counter()
    waits: Counter[tuple[str, str]] = Counter()
    for entry in books.live():
        job, team = entry.job, entry.job.spec.team
        if job.placement is not None:
            has[team, job.placement.pool] += sum(job.placement.gpus)
        elif job.state is JobState.QUEUED:
            waits[team, job.spec.plans[0].pool] += job.spec.plans[0].gpus
    quotas = {(team.name, pool): float(gpus) for team in fleet.teams for pool, gpus in team.quota}
    found: dict[Series, float] = {}
    for each in fleet.pools:
        pool = each.pool
        for team, called in teams.items():
            more, key = (called, pools[pool.name]), (team, pool.name)
            found[Series("orchestrator_queue_gpus", more)] = float(has[key])
            found[Series("orchestrator_queue_gpus_waiting", more)] = float(waits[key])
            found[Series("orchestrator_queue_quota_gpus", more)] = quotas.get(key, 0.0)
            usd = has[key] * pool.usd_per_gpu_hour
            found[Series("orchestrator_queue_cost_usd_per_hour", more)] = usd
    return found


def _months(books: Books, fleet: FleetFile, called: dict[str, str], now: float) -> dict[Series, float]:
    found: dict[Series, float] = {}
    limits = {team.name: team.usd_per_month for team in fleet.teams}
    for team, label in called.items():
        month = books.months.get((team, month_of(now)))
        found[Series("orchestrator_queue_month_usd", (label,))] = month.usd if month else 0.0
        if (limit := limits.get(team)) is not None:
            found[Series("orchestrator_queue_month_limit_usd", (label,))] = limit
    return found


def _nodes(books: Books, pool: Pool, usable: Usable, called: str) -> dict[Series, float]:
    counted = Counter(state for _, state in nodes_not_up(books, pool, usable))
    counted[NodeState.UP] = pool.nodes - counted.total()
    found = {
        Series("orchestrator_queue_nodes", (called, state.value)): float(counted[state])
        for state in NodeState
    }
    gpus = float(counted[NodeState.UP] * pool.gpus_per_node)
    return {**found, Series("orchestrator_queue_pool_gpus", (called,)): gpus}


def write_gauges(state_dir: Path, values: dict[Series, float], now: float) -> None:
    """An earlier one is replaced; nobody waits for it to be on the disk."""
    lines = [[series.name, list(series.more), value] for series, value in values.items()]
    body = json.dumps({"at_unix_s": now, "values": lines})
    atomic_write(state_dir / NAME, body, 0o600, durable=False)


def read_gauges(state_dir: Path, now: float) -> dict[Series, float]:
    """None where no daemon has written of late, or what is there is none."""
    try:
        body = papers.read_object(state_dir / NAME)
        if not now - float(body["at_unix_s"]) < _STALE_S:
            return {}
        return {
            Series(str(name), tuple(map(str, more))): float(value) for name, more, value in body["values"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
