"""A run's budget on its way from the configuration to the supervisor: checked, compared with the plan,
measured by the ledger."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from datetime import datetime

from orchestrator.config.budget_schema import BudgetConfig
from orchestrator.config.schema import Config
from orchestrator.driver.folded import Folded
from orchestrator.driver.prices import Prices
from orchestrator.driver.shared_budgets import SharedBudgets, shared_remarks
from orchestrator.errors import ConfigError
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.plan.forecast.failure_rates import Checkpoints
from orchestrator.plan.forecast.prediction import CHECKPOINT_BYTES_PER_PARAMETER
from orchestrator.plan.plan import Plan
from orchestrator.supervise.budget_words import amount, as_key, between, rounded_up
from orchestrator.supervise.spending import S_PER_HOUR, Budget, Cap, Caps, SaveTimes, Spent

MONEY = "money.json"


def check_budget(budget: BudgetConfig, now_unix_s: float | None = None) -> None:
    """Refuse what no cap can be. Raises :class:`ConfigError`."""
    now_s = time.time() if now_unix_s is None else now_unix_s
    end_s = None if budget.deadline is None else deadline_unix_s(budget.deadline, now_s)
    if end_s is not None and end_s <= now_s and _hours_of(str(budget.deadline)) is None:
        raise ConfigError(
            f"budget.deadline={budget.deadline}: is over; write a later one, e.g. budget.deadline=24 for a"
            " day from now on, or budget.deadline=null"
        )


def deadline_unix_s(deadline: str, began_unix_s: float) -> float:
    """When that is, for a run that began then. Raises :class:`ConfigError` for what is neither a date nor
    hours."""
    hours = _hours_of(deadline)
    if hours is not None and 0 < hours <= 1e7:
        return began_unix_s + hours * S_PER_HOUR
    try:
        if hours is None:
            return datetime.fromisoformat(deadline).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    raise ConfigError(
        f"budget.deadline={deadline}: is neither a date nor hours above 0; write e.g. budget.deadline=72, or"
        " budget.deadline=2026-12-31T18:00"
    )


def _hours_of(deadline: str) -> float | None:
    try:
        hours = float(deadline)
    except ValueError:
        return None
    return hours if math.isfinite(hours) else -1.0


def caps_of(config: Config, plan: Plan, began_unix_s: float) -> Caps:
    """Those that are set, for a run that began then."""
    budget = config.budget
    limits = {
        Cap.USD: budget.usd,
        Cap.GPU_HOURS: budget.gpu_hours,
        Cap.DEADLINE: None
        if budget.deadline is None
        else (deadline_unix_s(budget.deadline, began_unix_s) - began_unix_s) / S_PER_HOUR,
    }
    given = {cap: limit for cap, limit in limits.items() if limit is not None}
    return Caps(given, budget.hard, max(budget.first_save_s, _planned_save_s(config, plan)))


def _planned_save_s(config: Config, plan: Plan) -> float:
    """How long a save takes by the plan; 0 where it knows no model."""
    if plan.model is None:
        return 0.0
    size_bytes = CHECKPOINT_BYTES_PER_PARAMETER * plan.model.parameters
    save = Checkpoints.of(size_bytes, plan.layout.ranks, plan.layout.nodes, staged=config.snapshot.enabled)
    return save.stall_s + save.write_s


def budget_of(
    caps: Caps,
    plan: Plan,
    ledger: Ledger,
    journal: Journal,
    began_unix_s: float,
    shared: SharedBudgets | None,
    prices: Prices,
) -> Budget:
    """For the supervisor: the caps, the one bill that everybody sees, and the prices that are to come."""

    def spent() -> Spent:
        charges = ledger.spent(journal.now_s)
        since_hours = (time.time() - began_unix_s) / S_PER_HOUR
        return Spent(charges.cost_usd, charges.gpu_hours, since_hours, ledger.gpus_held, prices.most_usd())

    to_come = prices.mean_usd if prices.change else None
    steps = plan.prediction.steps
    if shared is None:
        return Budget(caps, spent, steps, mean_usd=to_come)
    return Budget(caps, spent, steps, shared.limits, to_come, shared.warnings)


def check_against_plan(config: Config, plan: Plan, caps: Caps, warn: Callable[[str], None]) -> None:
    """Before a run begins: refuse a cap that would not do even if all went well, or that is no more than
    what is kept for the last save; warn of one that may not do, or of which nobody can say.

    Raises :class:`ConfigError` with what would do.
    """
    for cap, limit in caps.limits.items():
        key = f"{cap}={config.budget.deadline if cap is Cap.DEADLINE else f'{limit:g}'}"
        _check_reserve(key, cap, limit, plan, caps, SaveTimes())
        planned = _planned(cap, plan)
        if planned is None:
            warn(
                f"{key}: whether that will do is not known, as the plan predicts no such total; the run saves"
                " and stops before it is spent"
            )
        elif limit < planned[2]:
            _too_little(key, cap, limit, planned, config, plan, warn)


def budget_remarks(config: Config, plan: Plan) -> list[str]:
    """What there is to say of a budget beside a plan that is only looked at. Raises :class:`ConfigError` for
    what a run would be refused for."""
    check_budget(config.budget)
    remarks: list[str] = []
    now_s = time.time()
    check_against_plan(config, plan, caps_of(config, plan, now_s), remarks.append)
    return remarks + shared_remarks(config, plan, now_s)


def check_resumed(config: Config, plan: Plan, caps: Caps, folded: Folded) -> None:
    """Refuse to take a run up that would stop at once. Raises :class:`ConfigError`."""
    bill = folded.ledger.bill()
    spent = {Cap.USD: bill.cost_usd, Cap.GPU_HOURS: bill.gpu_hours}
    started = folded.started
    spent[Cap.DEADLINE] = (time.time() - started.time_unix_s) / S_PER_HOUR if started else 0.0
    for cap, limit in caps.limits.items():
        key = f"{cap}={config.budget.deadline if cap is Cap.DEADLINE else f'{limit:g}'}"
        taken = amount(cap, spent[cap], plan.unit)
        key = f"{key}: of that the run has taken {taken} already; what is left"
        _check_reserve(key, cap, limit, plan, caps, folded.resume_state.save_times, spent[cap])


def _check_reserve(
    key: str, cap: Cap, limit: float, plan: Plan, caps: Caps, times: SaveTimes, spent: float = 0.0
) -> None:
    reserve_s = times.reserve_s(0.0, caps.first_save_s)
    held = Spent(0, 0, 0, plan.layout.ranks, plan.billed_by.usd_per_gpu_hour)
    reserve = held.per_s(cap) * reserve_s
    if limit - spent > reserve:
        return
    least = rounded_up(spent + 2 * reserve)
    known = " (budget.first_save_s, or the plan's figure)" if times.stall_s is None else ""
    raise ConfigError(
        f"{key} is no more than the {amount(cap, reserve, plan.unit)} that saving and stopping may take, at"
        f" {reserve_s:.0f} s{known}; write {as_key(cap, least)} or more"
    )


def _planned(cap: Cap, plan: Plan) -> tuple[float, float, float] | None:
    """Low, expected and high, of the whole run; None where the plan does not say."""
    predicted = plan.prediction
    if not predicted.costs or predicted.forecast is None:
        return None
    cost, run = predicted.costs[0], predicted.forecast
    if cap is Cap.USD:
        return cost.low_usd, cost.usd, cost.high_usd
    # The dollars have the planner's own error in their range; hours have the same one.
    wider = (run.wall_hours_low, run.wall_hours, run.wall_hours_high)
    if cost.usd > 0:
        wider = (
            run.wall_hours * cost.low_usd / cost.usd,
            run.wall_hours,
            run.wall_hours * cost.high_usd / cost.usd,
        )
    gpus = plan.layout.ranks if cap is Cap.GPU_HOURS else 1
    return wider[0] * gpus, wider[1] * gpus, wider[2] * gpus


def _too_little(
    key: str,
    cap: Cap,
    limit: float,
    planned: tuple[float, float, float],
    config: Config,
    plan: Plan,
    warn: Callable[[str], None],
) -> None:
    low, expected, high = planned
    total = between(cap, expected, low, high, plan.unit)
    steps = plan.prediction.steps or 0
    fitting = math.floor(steps * limit / high)
    fewer = f", job.steps={fitting} fits" if fitting else ""
    does = as_key(cap, rounded_up(high))
    if limit < low and not config.budget.may_fall_short:
        raise ConfigError(
            f"{key}: too little, by its plan the run takes {total}; {does} does{fewer}, and with"
            " budget.may_fall_short=true it trains as far as that goes, saves and stops"
        )
    word = "will" if limit < low else "may"
    warn(f"{key}: {word} not do, by its plan the run takes {total}; {does} does{fewer}")


def write_money(ledger: Ledger, directory: RunDirectory, notice: Callable[[str], None]) -> None:
    """Where the money of a run went, for programs; whoever has the journal can sum it again."""
    try:
        directory.write_json(MONEY, dataclasses.asdict(ledger.money()))
    except OSError as error:
        notice(f"{directory.path / MONEY} is not written: {error.strerror}")
