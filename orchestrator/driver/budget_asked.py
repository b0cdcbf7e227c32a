"""Whether a run has a budget: most have none, and a plan then needs nothing of what counts one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.schema import Config

FILE = "budgets.yaml"


def has_budget(config: Config) -> bool:
    """Of its own, or shared with others."""
    own = config.budget
    caps = (own.usd, own.gpu_hours, own.deadline)
    return any(cap is not None for cap in caps) or shared_budgets_file(config) is not None


def shared_budgets_file(config: Config) -> Path | None:
    """The one that is named, or that of the run root where there is one."""
    if config.budgets:
        return Path(config.budgets)
    usual = Path(config.run_root) / FILE
    return usual if usual.exists() else None
