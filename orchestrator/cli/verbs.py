"""What each verb does with a composed configuration. Everything heavy is imported by the verb that needs
it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.cli import check, export_verb, fleet_page, nodes, queue_verbs, run_verbs
from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError, OrchestratorError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.cli.show.run_view import RunOnTerminal
    from orchestrator.config.schema import Config
    from orchestrator.planner.sweep import PlannedPoint

SWEEP_NAME = "%Y%m%d-%H%M%S"  # as hydra.sweep.dir


def _config(composed: DictConfig, words: Sequence[str]) -> Config:
    from orchestrator.config.origin import from_composed

    return from_composed(composed, tuple(words))


def _run(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.run_view import RunOnTerminal

    return run_shown(composed, invocation, RunOnTerminal(Screen()))


def run_shown(
    composed: DictConfig, invocation: Invocation, view: RunOnTerminal, varied: Sequence[str] | None = None
) -> int:
    """Run what was composed; ``varied`` are the keys of the sweep that it is one of, None of a run alone."""
    from orchestrator.config.sweeping import refuse_without_sweep, with_varied
    from orchestrator.driver.run import run

    if _asks_what_to_train(composed):
        raise ConfigError(
            "budget_usd and deadline_days are answered by 'plan'; a run takes job.steps, and stops before"
            " budget.usd or budget.deadline is passed"
        )
    if composed.own or _asks_to_serve(composed):
        raise ConfigError(
            "own=true and serve=… are answered by 'plan'; a run trains, and neither serves nor buys"
        )
    config = _config(composed, invocation.words)
    if config.format is not None:
        raise ConfigError(f"format={config.format}: is for 'export'; a run is started here, and takes none")
    if varied is None:
        refuse_without_sweep(config.sweep)
    if config.layout.auto:
        from orchestrator.cli.show.layouts import show_choice
        from orchestrator.driver.planning import search_layout

        found = search_layout(config, observed=False)
        config = found.config
        show_choice(found.search, found.overrides, found.kept, Screen())
    return run(config if varied is None else with_varied(config, varied), view, trust=invocation.trust)


def _plan(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.plan import show_plan
    from orchestrator.driver.planning import make_plan, search_layout
    from orchestrator.plan.plan import plan_json

    if _asks_what_to_train(composed):
        return _plan_budget(composed, invocation)
    if composed.own:
        return _plan_own(composed, invocation)
    if _asks_to_serve(composed):
        return _plan_serving(composed, invocation)
    if composed.clusters:
        raise ConfigError(
            f"clusters={','.join(composed.clusters)}: is for budget_usd=…, deadline_days=…, serve=… and"
            " own=true; a plan is of one cluster, cluster=NAME, and 'plan -m cluster=A,B' makes a table"
        )
    config = _config(composed, invocation.words)
    found = search_layout(config, observed=invocation.json) if config.layout.auto else None
    plan = make_plan(config, observed=invocation.json) if found is None else found.plan
    body, console = plan_json(plan) if invocation.json else {}, Screen()
    if found is not None:
        from orchestrator.cli.show.layouts import search_json, show_choice, show_runners_up

        if invocation.json:
            body["search"] = search_json(found.search, found.overrides, found.kept)
        else:
            show_choice(found.search, found.overrides, found.kept, console)
            show_runners_up(found.search, console)
    if invocation.json:
        print(json.dumps(body, indent=2))
    else:
        show_plan(plan, console)
        from orchestrator.driver.beforehand import remarks_on_budgets

        for text in remarks_on_budgets(config if found is None else found.config, plan):
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return 0


def _asks_what_to_train(composed: DictConfig) -> bool:
    return composed.budget_usd is not None or composed.deadline_days is not None


def _plan_budget(composed: DictConfig, invocation: Invocation) -> int:
    from hydra.core.hydra_config import HydraConfig

    from orchestrator.cli.show.budget import show_answer
    from orchestrator.cli.show.budget_json import answer_json
    from orchestrator.driver.planning import plan_budget

    words = HydraConfig.get().overrides.task if is_swept() else invocation.words
    found = plan_budget(_config(composed, words))
    if invocation.json:
        print(json.dumps(answer_json(found), indent=2, default=str))
    else:
        show_answer(found, Screen())
    return 0


def _plan_own(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.owning import own_json, show_owning
    from orchestrator.planner.owning import answer

    found = answer(composed, invocation.words)
    if invocation.json:
        print(json.dumps(own_json(found), indent=2))
    else:
        show_owning(found, Screen())
    return 0


def _asks_to_serve(composed: DictConfig) -> bool:
    return bool(composed.serve.asked) or composed.serve.requests_per_day is not None


def _plan_serving(composed: DictConfig, invocation: Invocation) -> int:
    from hydra.core.hydra_config import HydraConfig

    from orchestrator.cli.show.serving import serving_json, show_serving
    from orchestrator.driver.planning import plan_serving

    words = HydraConfig.get().overrides.task if is_swept() else invocation.words
    found = plan_serving(_config(composed, words))
    if invocation.json:
        print(json.dumps(serving_json(found), indent=2))
    else:
        show_serving(found, Screen())
    return 0


def is_point(composed: DictConfig, invocation: Invocation) -> bool:
    """Whether this is one of several plans that are to be compared."""
    other = _asks_what_to_train(composed) or composed.own or _asks_to_serve(composed)
    return invocation.verb == "plan" and is_swept() and not other


def is_swept() -> bool:
    """Whether Hydra calls us for one of several combinations."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


@dataclass
class PlannedSweep:
    """The plans of a sweep, one after the other, and the table of them all. ``scratch`` is the folder that
    Hydra was given for it; "" is none."""

    scratch: str
    points: list[PlannedPoint] = field(default_factory=list)
    folder: str = ""  # where Hydra has the sweep's files: the user's own, or scratch

    def add(self, composed: DictConfig, invocation: Invocation) -> int:
        """Keep one point for the table; one that is refused is no failure of the others."""
        from hydra.core.hydra_config import HydraConfig

        from orchestrator.driver.planning import planned_point

        words = tuple(HydraConfig.get().overrides.task)
        self.folder = HydraConfig.get().sweep.dir
        self.points.append(planned_point(lambda: _config(composed, words), words, observed=invocation.json))
        if sys.stderr.isatty():
            print(f"\rplanned: {len(self.points)}", end="", file=sys.stderr, flush=True)
        return 0

    def show(self, first: DictConfig, invocation: Invocation) -> int:
        """Print them side by side. ``first`` is the configuration of one of them."""
        from orchestrator.cli.show.sweep_table import plans_json, refuse_if_none, show_plans

        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if invocation.json:
            print(plans_json(self.points))
            refuse_if_none(self.points)
        else:
            own = self.folder != self.scratch
            named = self.folder if own else f"{first.run_root}/sweeps/{time.strftime(SWEEP_NAME)}"
            show_plans(self.points, Path(named) / "plans.png", Screen())
        return 0


def _compare(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.compare import compare
    from orchestrator.config.load import load_tracking

    tracking = load_tracking(composed)
    output: Literal["json", "csv", "table"] = (
        "json" if invocation.json else "csv" if invocation.csv else "table"
    )
    given = invocation
    compare(
        tracking.uri, tracking.experiment, given.sort, output, given.limit, Screen(),
        filter_string=given.filter, to_loss=given.to_loss, by=given.by,
        html=given.html, png=given.png,
    )  # fmt: skip
    return 0


def _resume(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.run_view import RunOnTerminal
    from orchestrator.config.resume_changes import Wishes
    from orchestrator.driver.resume import resumable
    from orchestrator.driver.run import run
    from orchestrator.ledger.run_directory import find_run

    path = find_run(invocation.run, composed.run_root, invocation.trust).resolve()
    config, found = resumable(path, Wishes(invocation.words, composed, by_name=True))
    return run(config, RunOnTerminal(Screen()), found)


def _sync(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.sync import sync
    from orchestrator.config.load import load_tracking

    sync(invocation.run, composed.run_root, Screen(), invocation.trust, load_tracking(composed).uri)
    return 0


def _incidents(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.incidents import incidents

    incidents(invocation.run, composed.run_root, invocation.json, Screen(), invocation.trust)
    return 0


def _calibrate(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.calibration import show_calibrations, show_skipped
    from orchestrator.config.load import load_planner
    from orchestrator.planner.calibrate import calibrate
    from orchestrator.planner.calibration_file import calibration_path

    path, console = calibration_path(composed.run_root, composed.calibration), Screen()

    def skipped(name: str, reason: str) -> None:
        show_skipped(name, reason, console)

    planner = load_planner(composed)
    found = calibrate(invocation.runs, composed.run_root, path, planner, skipped, invocation.trust)
    show_calibrations(found, console)
    return 0


def _up(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.cluster_status import show_how_to_join, show_status
    from orchestrator.cli.show.run_view import OnTerminal
    from orchestrator.driver.stopping import leave_on_sigterm
    from orchestrator.driver.warm_cluster import up

    leave_on_sigterm()
    view = OnTerminal(Screen())
    cluster, seen = up(_config(composed, invocation.words), view)
    show_status(seen, view.console)
    if cluster.ours:
        show_how_to_join(cluster, view.console)
    queue_verbs.start_with_up(composed, view)
    return 0


def _status(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.cluster_status import show_status
    from orchestrator.driver.warm_cluster import status

    seen = status(_config(composed, invocation.words))
    if invocation.json:
        print(json.dumps(seen, indent=2))
    else:
        show_status(seen, Screen())
    return 0


def _doctor(composed: DictConfig, invocation: Invocation) -> int:
    from rich.text import Text

    from orchestrator.driver.doctor import examine, version

    found, console = examine(_config(composed, invocation.words)), Screen(soft_wrap=True, highlight=False)
    console.print(version().splitlines()[0])
    wide = max(len(one.subject) for one in found)
    for one in found:
        told = Text(one.wrong or one.seen, style="bold red" if one.wrong else "")
        console.print(Text.assemble((f"{one.subject:{wide}}  ", "dim"), told))
    wrong = [one.subject for one in found if one.wrong]
    console.print(f"\nwrong here: {', '.join(wrong)}" if wrong else "\nnothing is wrong here")
    return OrchestratorError.exit_code if wrong else 0


def _down(_composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.run_view import OnTerminal
    from orchestrator.driver.warm_cluster import down

    down(OnTerminal(Screen()), invocation.force)
    return 0


VERBS: dict[str, Callable[[DictConfig, Invocation], int]] = {
    "run": _run,
    "resume": _resume,
    "stop": run_verbs.stop_run,
    "runs": run_verbs.list_runs,
    "spend": run_verbs.show_spending,
    "logs": run_verbs.show_logs,
    "report": run_verbs.show_report,
    "open": run_verbs.open_run,
    "sync": _sync,
    "incidents": _incidents,
    "plan": _plan,
    "compare": _compare,
    "calibrate": _calibrate,
    "up": _up,
    "status": _status,
    "down": _down,
    "export": export_verb.export_one,
    "doctor": _doctor,
    "check": check.check_nodes,
    "nodes": nodes.list_nodes,
    "submit": queue_verbs.submit,
    "queue": queue_verbs.queue,
    "cancel": queue_verbs.cancel,
    "hold": queue_verbs.hold,
    "move": queue_verbs.move,
    "quota": queue_verbs.quota,
    "reserve": queue_verbs.reserve,
    "drain": queue_verbs.drain,
    "dispatch": queue_verbs.dispatch,
    "fleet": fleet_page.fleet,
    "simulate": run_verbs.simulate_trace,
}
