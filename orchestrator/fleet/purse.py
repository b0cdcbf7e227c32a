"""What is left of teams' budgets of the month: who has to stop for it, and who may start with it.

The worthiest have it first. Who runs keeps free what its stop takes; who starts leaves to those worthier than
it what they are expected to take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from orchestrator.fleet.books import Books
from orchestrator.fleet.jobs import Job
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.trace import Bools, Floats, Ints
from orchestrator.fleet.worth import HOUR_S

# Between two looks, and until the GPUs are given back; a job keeps as much free for a cap of its own.
_LOOK_S = 15.0
_SAVES = 3.0  # two, since one may have begun, each half as long again as it was


@dataclass
class Purse:
    """``left_usd`` is by team, infinite without a budget, and ``to_come_usd`` by row what it is expected to
    take still, in the first of its pools. ``running`` has of each team with a budget its rows, the worthiest
    first, and ``claimed_usd`` what the first so many of them are expected to take."""

    books: Books
    policy: Policy
    left_usd: Floats
    place: Ints  # of each row in the order of worth
    to_come_usd: Floats
    running: dict[int, list[int]] = field(default_factory=dict)
    claimed_usd: dict[int, Floats] = field(default_factory=dict)

    @staticmethod
    def of(books: Books, policy: Policy) -> Purse | None:
        """None where no team has a budget."""
        world = books.world
        if all(team.usd_per_month is None for team in world.teams):
            return None
        left = [
            math.inf if team.usd_per_month is None else max(team.usd_per_month - team.spent_usd, 0.0)
            for team in world.teams
        ]
        place = np.empty(len(books.order), int)
        place[books.order] = np.arange(len(books.order))
        usd = np.array([pool.usd_per_gpu_hour for pool in world.pools])
        purse = Purse(
            books, policy, np.array([*left, math.inf]), place, books.gpus * books.left_h * usd[books.pool]
        )
        for row in books.order[books.running[books.order]].tolist():
            if math.isfinite(purse.left_usd[books.team[row]]):
                purse.running.setdefault(int(books.team[row]), []).append(row)
        for team, rows in purse.running.items():
            purse.claimed_usd[team] = np.concatenate([[0.0], np.cumsum(purse.to_come_usd[rows])])
        return purse

    def to_stop(self) -> list[int]:
        """Who runs though nothing would be left to stop it with, once the worthier ones are stopped."""
        found = []
        for team, rows in self.running.items():
            left_usd = float(self.left_usd[team])
            for row in rows:
                needs_usd = self._stop_usd(row)
                if needs_usd >= left_usd:
                    found.append(row)
                else:
                    left_usd -= needs_usd
        return found

    def cannot_start(self) -> Bools:
        """Who waits and has too little, whoever else starts."""
        books = self.books
        waits = ~books.running & np.isfinite(self.left_usd[books.team])
        waits[list(books.choices)] = False  # another of its pools may be cheaper
        found = waits & (self.to_come_usd > self.left_usd[books.team])
        for team, rows in self.running.items():
            here = np.flatnonzero(waits & (books.team == team))
            ahead = np.searchsorted(self.place[rows], self.place[here])
            found[here] = self.to_come_usd[here] > self.left_usd[team] - self.claimed_usd[team][ahead]
        for row in np.flatnonzero(found).tolist():
            found[row] = not self._may_begin(row, int(books.pool[row]), int(books.gpus[row]))
        return found

    def beyond(self, starts: Iterable[tuple[int, int, int]]) -> list[int]:
        """Of those who would start together, as row, pool and GPUs, those to whom the worthier ones leave too
        little."""
        taken_usd: dict[int, float] = {}
        found = []
        for row, pool, gpus in sorted(starts, key=lambda one: int(self.place[one[0]])):
            team = int(self.books.team[row])
            if not math.isfinite(self.left_usd[team]):
                continue
            to_come_usd = self._usd(pool, gpus, self._hours(row, pool))
            left_usd = self.left_usd[team] - self._ahead_usd(row) - taken_usd.get(team, 0.0)
            alone = team not in taken_usd and self._may_begin(row, pool, gpus)
            if to_come_usd <= left_usd or alone:
                taken_usd[team] = taken_usd.get(team, 0.0) + to_come_usd
            else:
                found.append(row)
        return found

    def claimants(self, row: int) -> list[int]:
        """Who of its team runs and has the money before it."""
        rows = self.running.get(int(self.books.team[row]), [])
        return rows[: int(np.searchsorted(self.place[rows], self.place[row]))] if rows else []

    def _ahead_usd(self, row: int) -> float:
        claimed_usd = self.claimed_usd.get(int(self.books.team[row]))
        return 0.0 if claimed_usd is None else float(claimed_usd[len(self.claimants(row))])

    def _may_begin(self, row: int, pool: int, gpus: int) -> bool:
        """Where nobody worthier of its team runs, one that takes more than there is begins all the same, if
        there is enough for a while that is worth a start: it goes on in the next month."""
        if self.claimants(row):
            return False
        team, job = int(self.books.team[row]), self.books.jobs[row]
        while_s = self.policy.min_run_s + job.price.start_s + job.price.load_s + _stop_s(job)
        kept_usd = sum(self._stop_usd(other) for other in self.running.get(team, []))
        return bool(self._usd(pool, gpus, while_s / HOUR_S) <= self.left_usd[team] - kept_usd)

    def _stop_usd(self, row: int) -> float:
        """What is kept free of one that runs: to stop it, or to let it end if that takes less."""
        pool, gpus = int(self.books.pool[row]), int(self.books.gpus[row])
        stop_usd = self._usd(pool, gpus, _stop_s(self.books.jobs[row]) / HOUR_S)
        return min(stop_usd, float(self.to_come_usd[row]))

    def _usd(self, pool: int, gpus: int, hours: float) -> float:
        return gpus * hours * self.books.world.pools[pool].usd_per_gpu_hour

    def _hours(self, row: int, pool: int) -> float:
        """What it has left, in hours of that pool."""
        left_h, (first, *_) = float(self.books.left_h[row]), self.books.options(row)
        hours = {plan.pool: plan.hours for plan in self.books.jobs[row].spec.plans}
        pools = self.books.world.pools
        here, there = hours.get(pools[pool].name), hours.get(pools[first[0]].name)
        return left_h * here / there if here and there else left_h


def _stop_s(job: Job) -> float:
    return _LOOK_S + (job.step_s or 0.0) + job.price.stop_s + _SAVES * job.price.write_s
