"""What the verbs do that look at runs which are there, end one, or play a trace of jobs. Everything heavy is
imported by the verb that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def stop_run(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.stop import stop

    wait = not invocation.no_wait
    stop(invocation.run, composed.run_root, invocation.now, wait, Screen(), invocation.trust)
    return 0


def list_runs(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.runs import runs
    from orchestrator.driver.run_list import RunFilter

    given = invocation
    wanted = RunFilter(given.state, given.job, given.cluster, given.owner, given.project)
    runs(composed.run_root, wanted, given.json, given.limit or 100, Screen(), given.trust)
    return 0


def show_spending(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.spend import spend
    from orchestrator.driver.spending import BY_DEFAULT, Wanted

    given = invocation
    wanted = Wanted(given.owner, given.project, given.cost_center, given.cluster, given.month)
    output: Literal["json", "csv", "table"] = "json" if given.json else "csv" if given.csv else "table"
    spend(composed.run_root, given.by or BY_DEFAULT, wanted, output, Screen(), given.trust)
    return 0


def show_logs(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.logs import logs

    given = invocation
    logs(given.run, composed.run_root, given.rank, given.attempt, given.lines, given.follow, given.trust)
    return 0


def show_report(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.report import report

    given = invocation
    report(given.run, composed.run_root, given.json, Screen(), given.trust, given.html)
    return 0


def open_run(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.open import open_pages

    open_pages(invocation.run, composed.run_root, invocation.browser, Screen(), invocation.trust)
    return 0


def simulate_trace(composed: DictConfig, invocation: Invocation) -> int:
    if invocation.replay is not None:
        from orchestrator.cli.replay import replay

        _refuse_beside_a_replay(composed, invocation)
        return replay(invocation.replay, invocation.json, Screen(soft_wrap=True, highlight=False))
    if composed.get("scenario") is not None:
        from orchestrator.cli.scenario import simulate_scenario

        _refuse_flags_of_a_trace(invocation)
        output: Literal["json", "csv", "table"] = (
            "json" if invocation.json else "csv" if invocation.csv else "table"
        )
        simulate_scenario(composed, invocation.words, output, Screen())
        return 0
    from orchestrator.cli.simulate import simulate
    from orchestrator.fleet.contest import Setting

    if not invocation.trace:
        raise ConfigError("simulate: what? give --trace FILE, or a scenario, e.g. scenario=h100_2023")
    if invocation.csv:
        raise ConfigError("--csv: it is of a scenario; a trace has --json and --jobs-csv FILE")
    if invocation.fleet is not None:
        _refuse_beside_a_fleet(invocation)
    given, seeds = invocation, tuple(range(invocation.seeds))
    setting = Setting(
        given.gpus, given.restart_s, early=given.early, jitter_s=given.jitter_s, seeds=seeds,
        by_team=given.by_team,
    )  # fmt: skip
    if given.fleet is not None:
        from orchestrator.cli.simulate_fleet import simulate_fleet

        simulate_fleet(given.trace, given.fleet, setting, given.json, Screen())
        return 0
    simulate(
        given.trace, setting, given.policies, given.profile, given.json, Screen(),
        jobs_csv=given.jobs_csv, png=given.png,
    )  # fmt: skip
    return 0


_OF_A_TRACE = (
    "trace", "fleet", "profile", "policies", "gpus", "restart_s", "early", "jitter_s", "seeds", "by_team",
    "jobs_csv", "png",
)  # fmt: skip


def _refuse_beside_a_replay(composed: DictConfig, invocation: Invocation) -> None:
    """What was decided has its own jobs, nodes and policy on record."""
    if composed.get("scenario") is not None:
        raise ConfigError("--replay: a scenario was named, too; leave one of them out")
    if flag := _first_given(invocation, (*_OF_A_TRACE, "csv")):
        raise ConfigError(
            f"{_typed(flag)}: says nothing to --replay, which has all of that on record; leave it out"
        )


def _refuse_beside_a_fleet(invocation: Invocation) -> None:
    """The file has its own GPUs, and the queue's policy plays on them."""
    if flag := _first_given(invocation, ("profile", "policies", "gpus", "by_team", "jobs_csv", "png")):
        raise ConfigError(
            f"{_typed(flag)}: says nothing beside --fleet, whose file has the pools and the policy; leave one"
            " of them out"
        )


def _refuse_flags_of_a_trace(invocation: Invocation) -> None:
    if flag := _first_given(invocation, _OF_A_TRACE):
        instead = f"; set scenario.{flag}=… instead" if flag in ("restart_s", "seeds") else ""
        raise ConfigError(
            f"{_typed(flag)}: it is of a trace, and a scenario was named; leave it out{instead}"
        )


def _first_given(invocation: Invocation, names: Sequence[str]) -> str | None:
    """The first of these flags that was typed with another value than the usual one."""
    return next((name for name in names if getattr(invocation, name) != getattr(Invocation, name)), None)


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
