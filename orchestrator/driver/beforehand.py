"""What a run is refused for at its start, asked of one that starts later."""

from __future__ import annotations

from orchestrator.config.schema import Config
from orchestrator.driver.budget_asked import has_budget
from orchestrator.driver.preflight import check_script_builds
from orchestrator.plan.plan import Plan


def remarks_before(config: Config, plan: Plan) -> list[str]:
    """What there is to say of a new run, whenever it is to start. Raises
    :class:`~orchestrator.errors.ConfigError` for what its start would refuse as things are: a budget that
    would not do or is spent, and a script that builds another model."""
    check_script_builds(config)
    return remarks_on_budgets(config, plan)


def remarks_on_budgets(config: Config, plan: Plan) -> list[str]:
    """The part of that which is of a budget, its own or a shared one. Most have none, and load nothing."""
    if not has_budget(config):
        return []
    from orchestrator.driver.budget import budget_remarks

    return budget_remarks(config, plan)
