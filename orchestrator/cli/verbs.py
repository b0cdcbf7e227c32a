"""What each verb does with a composed configuration. Everything heavy is imported by the verb that needs
it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.config.schema import Config
    from orchestrator.planner.auto_layout import Choice

SWEEP_NAME = "%Y%m%d-%H%M%S"  # as hydra.sweep.dir


def _config(composed: DictConfig) -> Config:
    from orchestrator.config import load

    return load.load(composed)


def _chosen(composed: DictConfig, own: argparse.Namespace) -> tuple[Config, Choice | None]:
    """The configuration, with the search's choice where ``layout=auto`` asks for it."""
    if not composed.layout.auto:
        return _config(composed), None
    from orchestrator.planner.auto_layout import choose

    choice = choose(composed, own.overrides)
    return choice.config, choice


def _run(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.show.run_view import RunOnTerminal
    from orchestrator.driver.run import run

    if _asks_what_to_train(composed):
        raise ConfigError("budget_usd and deadline_days are answered by 'plan'; a run takes job.steps")
    config, choice = _chosen(composed, own)
    if choice is not None:
        from orchestrator.cli.show.layouts import show_choice

        show_choice(choice.search, choice.overrides, choice.kept, Screen())
    return run(config, RunOnTerminal(Screen()), trust=own.trust)


def _plan(composed: DictConfig, own: argparse.Namespace) -> int:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from orchestrator.cli.show.plan import show_plan
    from orchestrator.driver.preflight import plan_of
    from orchestrator.plan.plan import plan_json

    swept = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if _asks_what_to_train(composed):
        return _plan_budget(composed, own, HydraConfig.get().overrides.task if swept else own.overrides)
    if swept:
        return _plan_point(composed, own)
    config, choice = _chosen(composed, own)
    plan = plan_of(config, observed=own.json)
    body, console = plan_json(plan) if own.json else {}, Screen()
    if choice is not None:
        from orchestrator.cli.show.layouts import search_json, show_choice, show_runners_up

        if own.json:
            body["search"] = search_json(choice.search, choice.overrides, choice.kept)
        else:
            show_choice(choice.search, choice.overrides, choice.kept, console)
            show_runners_up(choice.search, console)
    if own.json:
        print(json.dumps(body, indent=2))
    else:
        show_plan(plan, console)
    return 0


def _asks_what_to_train(composed: DictConfig) -> bool:
    return composed.budget_usd is not None or composed.deadline_days is not None


def _plan_budget(composed: DictConfig, own: argparse.Namespace, words: Sequence[str]) -> int:
    from orchestrator.cli.show.budget import show_answer
    from orchestrator.cli.show.budget_json import answer_json
    from orchestrator.planner.budget import answer

    found = answer(composed, words)
    if own.json:
        print(json.dumps(answer_json(found), indent=2, default=str))
    else:
        show_answer(found, Screen())
    return 0


def _plan_point(composed: DictConfig, own: argparse.Namespace) -> int:
    """One point of a sweep is kept for the table; one that is refused is no failure of the others."""
    from hydra.core.hydra_config import HydraConfig

    from orchestrator.driver.preflight import plan_of
    from orchestrator.planner.sweep import PlannedPoint

    overrides = tuple(HydraConfig.get().overrides.task)
    own.sweep_dir = HydraConfig.get().sweep.dir
    try:
        own.swept.append(PlannedPoint(overrides, plan_of(_chosen(composed, own)[0], observed=own.json)))
    except ConfigError as error:
        own.swept.append(PlannedPoint(overrides, None, str(error)))
    if sys.stderr.isatty():
        print(f"\rplanned: {len(own.swept)}", end="", file=sys.stderr, flush=True)
    return 0


def show_swept(first: DictConfig, own: argparse.Namespace, scratch: str) -> int:
    from orchestrator.cli.show.sweep_table import plans_json, refuse_if_none, show_plans

    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if own.json:
        print(plans_json(own.swept))
        refuse_if_none(own.swept)
    else:
        named = (
            own.sweep_dir
            if own.sweep_dir != scratch
            else f"{first.run_root}/sweeps/{time.strftime(SWEEP_NAME)}"
        )
        show_plans(own.swept, Path(named) / "plans.png", Screen())
    return 0


def _compare(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.compare import compare
    from orchestrator.config.load import load_tracking

    tracking = load_tracking(composed)
    output: Literal["json", "csv", "table"] = "json" if own.json else "csv" if own.csv else "table"
    compare(tracking.uri, tracking.experiment, own.sort, output, own.limit, Screen())
    return 0


def _resume(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.show.run_view import RunOnTerminal
    from orchestrator.driver.resume import resumable
    from orchestrator.driver.run import run
    from orchestrator.ledger.run_directory import find_run

    path = find_run(own.run_ref, composed.run_root, own.trust).resolve()
    config, found = resumable(path)
    return run(config, RunOnTerminal(Screen()), found)


def _sync(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.sync import sync
    from orchestrator.config.load import load_tracking

    sync(own.run_ref, composed.run_root, Screen(), own.trust, load_tracking(composed).uri)
    return 0


def _incidents(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.incidents import incidents

    incidents(own.run_ref, composed.run_root, own.json, Screen(), own.trust)
    return 0


def _calibrate(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.show.calibration import show_calibrations, show_skipped
    from orchestrator.config.load import load_planner
    from orchestrator.planner.calibrate import calibrate
    from orchestrator.planner.calibration_file import calibration_path

    path, console = calibration_path(composed.run_root, composed.calibration), Screen()

    def skipped(name: str, reason: str) -> None:
        show_skipped(name, reason, console)

    fitted = calibrate(own.run_refs, composed.run_root, path, load_planner(composed), skipped, own.trust)
    show_calibrations(fitted, path, console)
    return 0


def _up(composed: DictConfig, _own: argparse.Namespace) -> int:
    from orchestrator.cli.show.cluster_status import show_how_to_join, show_status
    from orchestrator.cli.show.run_view import OnTerminal
    from orchestrator.driver.warm_cluster import up

    view = OnTerminal(Screen())
    cluster, seen = up(_config(composed), view)
    show_status(seen, view.console)
    if cluster.ours:
        show_how_to_join(cluster, view.console)
    return 0


def _status(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.show.cluster_status import show_status
    from orchestrator.driver.warm_cluster import status

    seen = status(_config(composed))
    if own.json:
        print(json.dumps(seen, indent=2))
    else:
        show_status(seen, Screen())
    return 0


def _down(_composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.cli.show.run_view import OnTerminal
    from orchestrator.driver.warm_cluster import down

    down(OnTerminal(Screen()), own.force)
    return 0


VERBS: dict[str, Callable[[DictConfig, argparse.Namespace], int]] = {
    "run": _run,
    "resume": _resume,
    "sync": _sync,
    "incidents": _incidents,
    "plan": _plan,
    "compare": _compare,
    "calibrate": _calibrate,
    "up": _up,
    "status": _status,
    "down": _down,
}
