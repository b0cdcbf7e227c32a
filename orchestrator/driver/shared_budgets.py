"""What a run may take of the budgets that it shares with others: drawn from them while it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.budget_events import SharedBudgetWarned
from orchestrator.config.schema import Config
from orchestrator.driver.budget_asked import FILE, shared_budgets_file
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.pools import CLAIM_S, RENEW_S, Amounts, Claims, Pool, pools_in, taken_of
from orchestrator.plan.plan import Plan
from orchestrator.supervise.budget_words import amount
from orchestrator.supervise.spending import S_PER_HOUR, WARN_SHARE, Cap, Spent
from orchestrator.text import usd
from orchestrator.users import user_name


class SharedBudgets:
    """One run's. ``notice`` is told when it gets less than it asks for."""

    def __init__(
        self,
        claims: Claims,
        ledger: Ledger,
        wish: Amounts,
        notice: Callable[[str], None],
        who: str,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "GPU",
    ) -> None:
        self._claims, self._ledger, self._wish, self._who = claims, ledger, wish, who
        self._notice, self._unit, self._clock = notice, unit, clock
        self._told = False
        self._draw_at_s = -math.inf
        self._limits: dict[Cap, float] = {}

    def limits(self, spent: Spent) -> dict[Cap, float]:
        """Up to which totals the run may go now; once a minute more is claimed. What cannot be claimed is not
        spent: the run saves and stops before that."""
        if self._clock() >= self._draw_at_s:
            self._draw_at_s = self._clock() + RENEW_S
            try:
                total = Amounts(spent.usd, spent.gpu_hours)
                self.say_if_short(total, self.draw(total))
            except RunDirectoryError as error:
                self._say(f"the shared budget of {self._who} cannot be read or written: {error}")
        return self._limits

    def draw(self, total: Amounts) -> Amounts:
        """Claim the next stretch; up to which totals the run may go."""
        most = self._claims.draw(total, self._wish)
        found = {Cap.SHARED_USD: most.usd, Cap.SHARED_GPU_HOURS: most.gpu_hours}
        self._limits = {cap: limit for cap, limit in found.items() if math.isfinite(limit)}
        return most

    def say_if_short(self, total: Amounts, most: Amounts) -> None:
        """Tell of a claim that is less than what was asked for."""
        left = Amounts(most.usd - total.usd, most.gpu_hours - total.gpu_hours)
        wish = self._wish
        if left.usd < wish.usd * 0.999 or left.gpu_hours < wish.gpu_hours * 0.999:
            found, asked = _amounts(left, wish, self._unit)
            self._say(
                f"of the shared budget of {self._who} {found} is neither spent nor claimed by other runs,"
                f" less than the {asked} that the next quarter of an hour and a save may take"
            )

    def warnings(self) -> list[SharedBudgetWarned]:
        """The budgets of which most is spent, as of the newest claim, by whatever run."""
        found = []
        for one in self._claims.spending:
            pool, spent = one.pool, one.spent
            kinds = (
                (Cap.SHARED_USD, pool.usd, spent.usd),
                (Cap.SHARED_GPU_HOURS, pool.gpu_hours, spent.gpu_hours),
            )
            found += [
                SharedBudgetWarned(str(pool), one.month, key, limit, taken)
                for key, limit, taken in kinds
                if limit is not None and taken >= WARN_SHARE * limit
            ]
        return found

    def give_back(self) -> None:
        """Nothing more is spent: others may have what was claimed."""
        bill = self._ledger.bill()
        self._claims.give_back(Amounts(bill.cost_usd, bill.gpu_hours))

    def _say(self, text: str) -> None:
        if not self._told:
            self._notice(f"{text}; this run saves and stops before what it has claimed is spent")
        self._told = True


def shared_budgets(
    config: Config, run: str, plan: Plan, ledger: Ledger, notice: Callable[[str], None]
) -> SharedBudgets | None:
    """What the run shares with others, its first stretch claimed; None where there is no such budget.

    Raises :class:`ConfigError` where nothing is left of it.
    """
    path, pools = _pools_of(config)
    if not pools:
        return None
    wish = _held_for(CLAIM_S + config.budget.first_save_s, plan)
    who = " and ".join(sorted({str(pool) for pool in pools}))
    claims = Claims(Path(config.run_root).resolve(), run, pools)
    shared = SharedBudgets(claims, ledger, wish, notice, who, unit=plan.unit)
    bill = ledger.bill()
    total = Amounts(bill.cost_usd, bill.gpu_hours)
    most = shared.draw(total)
    left = Amounts(most.usd - total.usd, most.gpu_hours - total.gpu_hours)
    if (refusal := _refusal(config, plan, left, path, pools)) is not None:
        shared.give_back()
        raise refusal
    shared.say_if_short(total, most)
    return shared


def shared_remarks(config: Config, plan: Plan, now_unix_s: float) -> list[str]:
    """What there is to say of shared budgets beside a plan that is only looked at, of which nothing is
    claimed. Raises :class:`ConfigError` for what a run would be refused for."""
    path, pools = _pools_of(config)
    costs = plan.prediction.costs
    remarks = []
    for pool in pools:
        try:
            found = taken_of(Path(config.run_root).resolve(), pool, now_unix_s)
        except RunDirectoryError as error:
            remarks.append(f"the shared budget of {pool} cannot be read: {error}")
            continue
        if found is None:
            continue
        left = Amounts(
            math.inf if pool.usd is None else pool.usd - found.spent.usd,
            math.inf if pool.gpu_hours is None else pool.gpu_hours - found.spent.gpu_hours,
        )
        if (refusal := _refusal(config, plan, left, path, pools)) is not None:
            raise refusal
        if math.isfinite(left.usd) and costs and costs[0].usd > left.usd:
            remarks.append(
                f"of the shared budget of {pool} for {found.month} {usd(left.usd)} of {usd(pool.usd)} is"
                f" neither spent nor claimed, and the run is planned to cost {usd(costs[0].usd)}: it saves"
                " and stops before more is spent"
            )
    return remarks


def _pools_of(config: Config) -> tuple[Path, list[Pool]]:
    path = shared_budgets_file(config)
    if path is None:
        return Path(config.run_root) / FILE, []
    payers = {
        "owner": config.owner or user_name(),
        "project": config.project,
        "cost_center": config.cost_center,
    }
    return path, pools_in(path, payers)


def _held_for(seconds: float, plan: Plan) -> Amounts:
    """What the run takes if it holds what it is planned on for so long."""
    gpu_hours = plan.layout.ranks * seconds / S_PER_HOUR
    return Amounts(gpu_hours * plan.billed_by.usd_per_gpu_hour, gpu_hours)


def _refusal(config: Config, plan: Plan, left: Amounts, path: Path, pools: list[Pool]) -> ConfigError | None:
    """Why a run that finds so much left of these may not begin; None where it may."""
    saving = _held_for(config.budget.first_save_s, plan)
    costs_too_much = saving.usd > 0 and left.usd <= saving.usd
    if not costs_too_much and left.gpu_hours > saving.gpu_hours:
        return None
    who = " and ".join(sorted({str(pool) for pool in pools}))
    found, needed = _amounts(left, saving, plan.unit)
    return ConfigError(
        f"budgets={path}: of what {who} may spend this month {found} is neither spent nor claimed by"
        f" other runs, and saving and stopping alone may take {needed} ({config.budget.first_save_s:g} s,"
        " budget.first_save_s); raise it there, or wait for a run to end or the next month"
    )


def _amounts(left: Amounts, needed: Amounts, unit: str) -> tuple[str, str]:
    """What is left beside what is needed, in dollars or in hours: of whichever is the scarcer."""
    by_hours = left.gpu_hours * needed.usd < left.usd * needed.gpu_hours if needed.usd else True
    if by_hours or not math.isfinite(left.usd):
        return amount(Cap.SHARED_GPU_HOURS, left.gpu_hours, unit), amount(
            Cap.SHARED_GPU_HOURS, needed.gpu_hours, unit
        )
    return amount(Cap.SHARED_USD, left.usd), amount(Cap.SHARED_USD, needed.usd)
