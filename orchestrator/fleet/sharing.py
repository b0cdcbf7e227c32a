"""Which job may have GPUs of which pool: quotas and reservations first, then by worth."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.books import Books
from orchestrator.fleet.choose import fill
from orchestrator.fleet.pools import capacity_at, reserved_at
from orchestrator.fleet.trace import Bools, Ints
from orchestrator.fleet.worth import HOUR_S


@dataclass
class Sharing:
    """``pool`` is -1 for who gets none. ``owed`` have what a quota or a reservation gives them; ``limited``
    would borrow more than their team may; ``kept`` cannot be stopped and would still run when GPUs are kept
    for somebody, or leave: until when those before them could start."""

    pool: Ints
    gpus: Ints
    owed: Bools
    limited: set[int] = field(default_factory=set)
    kept: dict[int, float] = field(default_factory=dict)


Guarantees = dict[tuple[int, int], int]  # team, pool: GPUs


@dataclass
class _Left:
    """What is left to give, and to whom it was promised."""

    free: Ints
    promised: Guarantees
    of_job: dict[tuple[str, int], int]
    borrowed: dict[int, int]


def share_out(books: Books, out: Bools, stay: Bools) -> Sharing:
    """Those who are ``out`` get nothing, and those who ``stay`` keep what they have."""
    count = len(books.jobs)
    sharing = Sharing(np.full(count, -1), books.gpus.copy(), np.zeros(count, bool))
    left = _Left(books.capacity.copy(), *_promises(books), defaultdict(int))
    order = books.order
    pinned = books.running & ((books.pinned_until > books.world.now) | stay)
    _keep(books, sharing, left, order[pinned[order]])
    rest = order[~(pinned | out)[order]]
    plain = _is_plain(books, rest)
    if plain and _promises_can_be_kept(left):
        owed = rest[_within_promises(books, left, rest)]
        sharing.owed[owed] = True
        sharing.pool[owed] = books.pool[owed]
        np.subtract.at(left.free, books.pool[owed], books.gpus[owed])
        _fill_by_worth(books, sharing, left, rest[~sharing.owed[rest]] if len(owed) else rest)
        return sharing
    rows = rest.tolist()
    for row in _could_be_owed(books, left, rest).tolist() if left.promised or left.of_job else ():
        for pool, gpus in books.options(row):
            if gpus > left.free[pool] or _would_be_in_the_way(books, sharing, row, pool, gpus):
                continue
            if _take_promised(books, left, row, pool, gpus):
                sharing.owed[row] = True
                _give(books, sharing, left, row, pool, gpus)
                break
    if plain:
        _fill_by_worth(books, sharing, left, rest[sharing.pool[rest] < 0])
    else:
        _lend(books, sharing, left, [row for row in rows if sharing.pool[row] < 0])
    return sharing


def _promises_can_be_kept(left: _Left) -> bool:
    """All of them together, whoever comes for them: so each can be looked at for itself."""
    if left.of_job:
        return False
    promised = np.zeros(len(left.free), int)
    for (_, pool), gpus in left.promised.items():
        promised[pool] += gpus
    return bool((promised <= left.free).all()) or not left.promised


def _could_be_owed(books: Books, left: _Left, rows: Ints) -> Ints:
    """Those to whom any one promise is still large enough, and what is free. Both only become less."""
    if left.of_job or books.choices:
        return rows
    promised = np.zeros((len(books.world.teams) + 1, len(left.free)), int)  # the last: of who is in no team
    for (team, at), count in left.promised.items():
        promised[team, at] = count
    pool, gpus = books.pool[rows], books.gpus[rows]
    found: Ints = rows[(gpus <= left.free[pool]) & (gpus <= promised[books.team[rows], pool])]
    return found


def _within_promises(books: Books, left: _Left, rows: Ints) -> Bools:
    """Which of these, in their order, are within what their teams were promised, which is less by them then.
    Each is looked at in the first of its pools only."""
    found = np.zeros(len(rows), bool)
    team, pool, gpus = books.team[rows], books.pool[rows], books.gpus[rows]
    for (of_team, at), promised in left.promised.items():
        here = np.flatnonzero((team == of_team) & (pool == at))
        here = here[fill(gpus[here], promised)]
        found[here] = True
        left.promised[of_team, at] -= int(gpus[here].sum())
    return found


def _keep(books: Books, sharing: Sharing, left: _Left, rows: Ints) -> None:
    """What must not be stopped has what it has."""
    if left.of_job:
        for row in rows.tolist():
            pool, gpus = int(books.pool[row]), int(books.gpus[row])
            sharing.owed[row] = _take_promised(books, left, row, pool, gpus)
            _give(books, sharing, left, row, pool, gpus)
        return
    sharing.pool[rows] = books.pool[rows]
    np.subtract.at(left.free, books.pool[rows], books.gpus[rows])
    if not books.world.teams:
        return
    owed = _within_promises(books, left, rows)
    sharing.owed[rows] = owed
    borrows = rows[~owed]
    for team in np.unique(books.team[borrows]).tolist():
        left.borrowed[team] += int(books.gpus[borrows[books.team[borrows] == team]].sum())


def _promises(books: Books) -> tuple[Guarantees, dict[tuple[str, int], int]]:
    world = books.world
    pools = {pool.name: at for at, pool in enumerate(world.pools)}
    promised: Guarantees = {}
    for at, team in enumerate(world.teams):
        for pool, gpus in team.quota:
            if gpus and pool in pools:
                promised[at, pools[pool]] = promised.get((at, pools[pool]), 0) + gpus
    teams = {team.name: at for at, team in enumerate(world.teams)}
    of_job: dict[tuple[str, int], int] = {}
    for one in world.reservations:
        if not one.is_on(world.now) or one.pool not in pools:
            continue
        at = pools[one.pool]
        gpus = one.nodes * world.pools[at].gpus_per_node
        if one.job:
            of_job[one.job, at] = of_job.get((one.job, at), 0) + gpus
        elif one.team in teams:
            promised[teams[one.team], at] = promised.get((teams[one.team], at), 0) + gpus
    return promised, of_job


def _take_promised(books: Books, left: _Left, row: int, pool: int, gpus: int) -> bool:
    """Whether the job is within what it or its team was promised there, which is less by it then."""
    own = (books.jobs[row].key, pool)
    if left.of_job.get(own, 0) >= gpus:
        left.of_job[own] -= gpus
        return True
    of_team = (int(books.team[row]), pool)
    if left.promised.get(of_team, 0) >= gpus:
        left.promised[of_team] -= gpus
        return True
    return False


def _give(books: Books, sharing: Sharing, left: _Left, row: int, pool: int, gpus: int) -> None:
    sharing.pool[row], sharing.gpus[row] = pool, gpus
    left.free[pool] -= gpus
    if not sharing.owed[row]:
        left.borrowed[int(books.team[row])] += gpus


def _is_plain(books: Books, rows: Ints) -> bool:
    """Whether nobody may borrow only so much, each can be stopped, and each has one pool to run in."""
    limited = any(team.borrow_limit is not None for team in books.world.teams)
    return (
        not limited
        and bool(books.preemptible[rows].all())
        and not (books.choices and np.isin(rows, list(books.choices)).any())
    )


def _fill_by_worth(books: Books, sharing: Sharing, left: _Left, rows: Ints) -> None:
    if len(books.world.pools) == 1:
        taken = rows[fill(books.gpus[rows], int(left.free[0]))]
        sharing.pool[taken] = 0
        return
    of_pool = books.pool[rows]
    for pool in range(len(books.world.pools)):
        here = rows[of_pool == pool]
        sharing.pool[here[fill(books.gpus[here], int(left.free[pool]))]] = pool


def _lend(books: Books, sharing: Sharing, left: _Left, rows: list[int]) -> None:
    """What nobody has a claim to, by worth. Who cannot be stopped takes only what nobody was promised, and
    nothing that a worthier one, who waits for others that cannot be stopped either, would start with."""
    teams, blocked = books.world.teams, [-1] * len(books.world.pools)
    smallest = min((gpus for row in rows for _, gpus in books.options(row)), default=0)
    for row in rows:
        if left.free.max(initial=0) < smallest:
            break
        team = int(books.team[row])
        limit = teams[team].borrow_limit if team >= 0 else None
        for pool, gpus in books.options(row):
            if limit is not None and left.borrowed[team] + gpus > limit:
                sharing.limited.add(row)
                continue
            if gpus > left.free[pool]:
                if blocked[pool] < 0:
                    blocked[pool] = row
                continue
            if not books.preemptible[row]:
                if not _may_stay(books, sharing, left, row, pool, gpus, blocked[pool]):
                    continue
                if _would_be_in_the_way(books, sharing, row, pool, gpus):
                    continue
            _give(books, sharing, left, row, pool, gpus)
            break


def _may_stay(
    books: Books, sharing: Sharing, left: _Left, row: int, pool: int, gpus: int, blocked: int
) -> bool:
    promised = sum(count for (_, at), count in left.promised.items() if at == pool)
    promised += sum(count for (_, at), count in left.of_job.items() if at == pool)
    if gpus > left.free[pool] - promised:
        return False
    if blocked < 0:
        return True
    wanted = dict(books.options(blocked))[pool]
    there = np.flatnonzero(sharing.pool == pool)
    there = there[np.argsort(books.left_h[there], kind="stable")]
    sums = int(left.free[pool]) + np.cumsum(sharing.gpus[there])
    place = int(np.searchsorted(sums, wanted))
    if place == len(sums):
        return True
    shadow_h, spare = float(books.left_h[there][place]), int(sums[place]) - wanted
    return float(books.left_h[row]) <= shadow_h or gpus <= spare or math.isinf(shadow_h)


def _would_be_in_the_way(books: Books, sharing: Sharing, row: int, pool: int, gpus: int) -> bool:
    if books.preemptible[row]:
        return False
    needed_at = _needed_at(books, sharing, row, pool, gpus)
    if needed_at is not None:
        sharing.kept[row] = needed_at
    return needed_at is not None


def _needed_at(books: Books, sharing: Sharing, row: int, pool: int, gpus: int) -> float | None:
    """When its GPUs will be needed before it has ended: for a reservation that is to begin, or since nodes
    leave. None where they will not be, or where enough others have ended by then or can be stopped."""
    world = books.world
    name = world.pools[pool].name
    times = {one.at for one in world.changes if one.pool == name and one.nodes < 0 and one.at > world.now}
    times |= {one.from_at for one in world.reservations if one.pool == name and one.from_at > world.now}
    for at in sorted(times):
        hours = (at - world.now) / HOUR_S
        if books.left_h[row] <= hours:
            return None
        stay = (sharing.pool == pool) & ~books.preemptible & (books.left_h > hours)
        room = int(capacity_at(world.pools, world.changes, at)[pool])
        job = books.jobs[row]
        room -= int(reserved_at(world.pools, world.reservations, at, job.key, job.spec.team)[pool])
        if gpus + int(sharing.gpus[stay].sum()) > room:
            return at
    return None
