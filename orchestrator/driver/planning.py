"""The planner asked by a program, or by the command line: nothing is started, and nothing is printed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.config.schema import Config
from orchestrator.driver.preflight import check_before_search, plan_of
from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan

if TYPE_CHECKING:  # a plan alone needs none of them, and each takes milliseconds
    from orchestrator.plan.search.runners_up import RunnerUp
    from orchestrator.plan.search.search import Search
    from orchestrator.planner.budget import BudgetResult
    from orchestrator.planner.serving import ServingAnswer
    from orchestrator.planner.sweep import PlannedPoint, Sweep


@dataclass(frozen=True)
class LayoutSearch:
    """What a search for a layout found."""

    config: Config  # with the choice applied, to be started
    plan: Plan  # of that
    search: Search  # all that was looked at
    overrides: tuple[str, ...]  # words that make the same choice without a search
    kept: tuple[str, ...]  # words that had been given, and were left alone

    @property
    def runners_up(self) -> tuple[RunnerUp, ...]:
        """The best of each other kind, and why it lost."""
        return self.search.runners_up


def make_plan(config: Config, observed: bool = True) -> Plan:
    """Plan a run, without starting anything.

    Args:
        config: Its configuration, of :func:`orchestrator.compose`. With ``layout=auto`` a layout is searched.
        observed: Whether script, data and packages are hashed, as nodes will be compared with them.

    Raises:
        ConfigError: The configuration contradicts itself, or what it asks for cannot fit.
    """
    if _to_be_searched(config):
        return search_layout(config, observed).plan
    return plan_of(config, observed)


def search_layout(config: Config, observed: bool = True) -> LayoutSearch:
    """Search the layout whose run is the cheapest on the cluster of a configuration, as ``layout=auto`` does.

    Args:
        config: Of :func:`orchestrator.compose`. The keys of a layout that its words name, or that were set
            since, are kept; all others are searched.
        observed: As of :func:`orchestrator.make_plan`.

    Raises:
        ConfigError: Nothing fits, with what comes closest; or no step time can be predicted.
    """
    from orchestrator.config.origin import origin_of
    from orchestrator.planner.auto_layout import choose

    if config.model is not None:  # else there is nothing to choose by, whatever the script
        check_before_search(config)
    choice = choose(*origin_of(config))
    return LayoutSearch(
        config=choice.config,
        plan=plan_of(choice.config, observed),
        search=choice.search,
        overrides=choice.overrides,
        kept=choice.kept,
    )


def plan_budget(config: Config, usd: float | None = None, days: float | None = None) -> BudgetResult:
    """Look for the best model that money, time or both can train, on which cluster, and in which layout.

    Args:
        config: Of :func:`orchestrator.compose`. A cluster, a number of nodes or a model that its words name
            is kept.
        usd: What the run may cost; left out it is the configuration's ``budget_usd``.
        days: When it has to be done; left out it is the configuration's ``deadline_days``.

    Raises:
        ConfigError: Neither is given, one of them is no number above 0, or nothing can be trained within
            them.
    """
    from orchestrator.config.origin import changed, origin_of
    from orchestrator.driver.preflight import look_at_script
    from orchestrator.planner.budget import answer

    limits = {"budget_usd": usd, "deadline_days": days}
    for name, value in limits.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{name}={value!r}: is not a number; give one above 0")
    config = changed(config, **{name: float(value) for name, value in limits.items() if value is not None})
    if config.budget_usd is None and config.deadline_days is None:
        raise ConfigError("plan_budget: neither money nor time is given; give usd=… or days=…, or both")
    return answer(*origin_of(config), look_at_script(config))


def plan_serving(config: Config) -> ServingAnswer:
    """Look for what serves a model, how much of it a load takes, and what that costs a day.

    Args:
        config: Of :func:`orchestrator.compose`, with ``serve=MODEL`` and a load among its words. A cluster
            that they name is kept.

    Raises:
        ConfigError: The load is incomplete or out of range, or no cluster serves it.
    """
    from orchestrator.config.origin import origin_of
    from orchestrator.planner.serving import answer

    return answer(*origin_of(config))


def sweep(config: Config, values: Mapping[str, Sequence[Any]], observed: bool = False) -> Sweep:
    """Plan every combination of some values, as ``plan --multirun`` does.

    Args:
        config: Of :func:`orchestrator.compose`; what varies is set on top of it.
        values: By key, or by group of ``conf/``, what each is to be: ``{"cluster.nodes": [8, 16]}``.
        observed: As of :func:`orchestrator.make_plan`.

    Raises:
        ConfigError: A key has no values. A combination that is refused is a point of the sweep with its
            reason.
    """
    from orchestrator.config.composing import compose
    from orchestrator.config.origin import origin_of, word
    from orchestrator.planner.sweep import Sweep

    for key, of_key in values.items():
        if isinstance(of_key, str) or not isinstance(of_key, Sequence) or not of_key:
            raise ConfigError(f"{key}={of_key!r}: a sweep needs a list of values; write {{{key!r}: [1, 2]}}")
    given = [one for one in origin_of(config)[1] if _key(one) not in values]
    points = []
    for combination in itertools.product(*values.values()):
        own = [word(key, value) for key, value in zip(values, combination, strict=True)]
        points.append(planned_point(partial(compose, *given, *own), own, observed))
    return Sweep(tuple(points))


def planned_point(composed: Callable[[], Config], overrides: Sequence[str], observed: bool) -> PlannedPoint:
    """One point of a sweep, with its reason where it is refused: that is no failure of the others."""
    from orchestrator.planner.sweep import PlannedPoint

    try:
        return PlannedPoint(tuple(overrides), make_plan(composed(), observed))
    except ConfigError as error:
        return PlannedPoint(tuple(overrides), None, str(error))


def settled(config: Config) -> Config:
    """The configuration with its layout chosen, where it asks for a search that has not been made."""
    return search_layout(config, observed=False).config if _to_be_searched(config) else config


def _to_be_searched(config: Config) -> bool:
    if not config.layout.auto:
        return False
    from orchestrator.config.origin import was_searched

    return not was_searched(config)


def _key(given: str) -> str:
    """``cluster.nodes`` of ``++cluster.nodes=1``."""
    return given.partition("=")[0].lstrip("+~").partition("@")[0]
