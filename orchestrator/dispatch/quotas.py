"""Who uses, lends and borrows what."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.dispatch.books import Books, month_of
from orchestrator.fleet.jobs import JobState
from orchestrator.fleet.teams import next_month_at
from orchestrator.fleet.world import World

NEAR = 0.8  # of a month's budget is warned of, as of a run's own caps
_HOLDS = (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)


@dataclass(frozen=True)
class QuotaRow:
    """What one team has in one pool."""

    team: str  # its name
    pool: str  # the pool's
    quota: int  # GPUs that it gets before anybody borrows
    used: int  # GPUs that its jobs have now
    lent: int  # GPUs of its quota that others have now
    borrowed: int  # GPUs that it has beyond its quota
    waiting: int  # GPUs that its jobs wait for there
    borrow_limit: int | None  # GPUs beyond its quotas in all pools; null where it may borrow all
    month_usd: float  # spent in this month, in all pools, by runs that go on as well
    month_limit_usd: float | None  # that it may spend in a month; null without a limit
    month_stops_usd: float  # paid for stops of others in this month


@dataclass(frozen=True)
class TeamMonth:
    """What a team with a budget has spent of it."""

    team: str  # its name
    usd: float  # spent in this month, by runs that go on as well
    limit_usd: float  # at which its jobs have saved and stopped
    until_unix_s: float  # when the next month begins, in UTC
    is_near: bool  # whether four fifths of it are spent


def months_of(world: World) -> list[TeamMonth]:
    """Of the teams that have a budget of the month."""
    until_at = next_month_at(world.now)
    return [
        TeamMonth(
            team.name, team.spent_usd, team.usd_per_month, until_at,
            team.spent_usd >= NEAR * team.usd_per_month,
        )
        for team in world.teams
        if team.usd_per_month is not None
    ]  # fmt: skip


def quotas_of(world: World, books: Books, now: float) -> list[QuotaRow]:
    """A row for each team and pool in which it has a quota, GPUs, or jobs that wait."""
    rows: list[QuotaRow] = []
    for pool in world.pools:
        used: dict[str, int] = {}
        waiting: dict[str, int] = {}
        for job in world.jobs:
            name, there = job.spec.team, job.placement
            if there is not None and job.state in _HOLDS and there.pool == pool.name:
                used[name] = used.get(name, 0) + sum(there.gpus)
            elif job.state is JobState.QUEUED and job.spec.plans[0].pool == pool.name:
                waiting[name] = waiting.get(name, 0) + job.spec.plans[0].gpus
        free = pool.gpus - sum(used.values())
        spare = {team.name: max(team.quota_in(pool.name) - used.get(team.name, 0), 0) for team in world.teams}
        lent_in_all = max(sum(spare.values()) - free, 0)
        for team in world.teams:
            quota, has = team.quota_in(pool.name), used.get(team.name, 0)
            if not (quota or has or waiting.get(team.name)):
                continue
            lent = min(spare[team.name], lent_in_all)
            lent_in_all -= lent
            month = books.months.get((team.name, month_of(now)))
            rows.append(
                QuotaRow(
                    team.name, pool.name, quota, has, lent, max(has - quota, 0), waiting.get(team.name, 0),
                    team.borrow_limit, team.spent_usd, team.usd_per_month,
                    month.stops_usd if month else 0.0,
                )
            )  # fmt: skip
    return rows
