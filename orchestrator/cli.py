"""Verbs → compose → wire; no logic. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from rich.console import Console

from orchestrator import __version__
from orchestrator.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ConfigError, OrchestratorError, near_miss

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.choose import Choice
    from orchestrator.config import Config

VERBS = ("run", "resume", "sync", "incidents", "plan", "compare", "calibrate", "up", "status", "down")
TAKE_A_RUN = ("resume", "sync", "incidents")
TAKE_RUNS = ("calibrate",)
HYDRA_FLAGS = (
    "--help", "-h", "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
TAKE_A_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--sort", "--limit",
)  # fmt: skip
SWEEP_NAME = "%Y%m%d-%H%M%S"  # as hydra.sweep.dir
MAY_TAKE_A_VALUE = ("--info", "-i")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (see :mod:`orchestrator.errors`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        verb = _take_verb(args)
        run_ref, run_refs = _take_run(verb, args), _take_runs(verb, args)
        own, overrides = _own_flags(verb).parse_known_args(args)
        own.run_ref, own.run_refs, own.overrides = run_ref, run_refs, overrides
        _check_flags(verb, overrides)
    except ConfigError as error:
        return _fail(error)
    if own.version:
        print(f"orchestrator {__version__}")
        return 0
    # Hydra would print its errors and exit by itself; with this it hands them to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _no_garbage_yet(keep=argv is None):
        import hydra
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        from orchestrator import load

        load.register()
        composed_once = load.compose_once(overrides)
    codes: list[int] = []
    called: list[DictConfig] = []

    def task(composed: DictConfig) -> None:
        called.append(composed)
        codes.append(_guard(lambda: _VERBS[verb](composed, own)))
        if codes[-1] in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            raise SystemExit(codes[-1])  # ends a sweep too: the next run was not asked for any more

    own.swept, scratch = [], _scratch(verb, overrides)
    # The user's own override comes later and wins.
    sys.argv = [sys.argv[0], *([f"hydra.sweep.dir='{scratch}'"] if scratch else []), *_flags_last(overrides)]
    entry = hydra.main(version_base="1.3", config_path=str(load.conf_dir()), config_name="config")(task)
    try:
        task(composed_once) if composed_once is not None else entry()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        from orchestrator.cli_errors import explain

        return _fail(ConfigError(explain(error, overrides)))
    except OrchestratorError as error:
        return _fail(error)
    except ValueError as error:
        if called:
            raise
        return _fail(ConfigError(str(error)))  # Hydra's word on an override that makes no sense, e.g. model=null
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    if own.swept:
        codes.append(_guard(lambda: _show_plans(called[0], own, scratch)))
    return max(codes, default=0)


def _flags_last(words: Sequence[str]) -> list[str]:
    """The same command line with every KEY=VALUE before the flags: Hydra refuses those that flags separate."""
    flags: list[str] = []
    overrides: list[str] = []
    for place, word in enumerate(words):
        value = place and (
            words[place - 1] in TAKE_A_VALUE or (words[place - 1] in MAY_TAKE_A_VALUE and "=" not in word)
        )
        (flags if value or word.startswith("-") else overrides).append(word)
    return overrides + flags


def _scratch(verb: str, overrides: Sequence[str]) -> str:
    """A folder for what Hydra writes at a sweep, empty folders and a copy of itself, where the points are only
    plans; "" for anything else."""
    if verb != "plan" or not {"-m", "--multirun"} & set(overrides):
        return ""
    import tempfile

    return tempfile.mkdtemp(prefix="orchestrator-")


@contextmanager
def _no_garbage_yet(keep: bool) -> Iterator[None]:
    """Imports and composing make a hundred thousand objects that stay; no time is spent on looking for garbage
    among them, with ``keep`` (in a process that is all ours) not later either."""
    gc.disable()
    try:
        yield
    finally:
        if keep:
            gc.freeze()
        gc.enable()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; see --help")


def _take_verb(args: list[str]) -> str:
    """The verb, which flags such as ``--config-dir DIR`` may precede; it is taken out of ``args``.

    Raises :class:`ConfigError` for a bare word that is none, as only a verb can be.
    """
    for place, word in enumerate(args):
        if word.isidentifier() and not (place and args[place - 1] in (*TAKE_A_VALUE, *MAY_TAKE_A_VALUE)):
            if word not in VERBS:
                raise ConfigError(f"'{word}' is not a verb ({', '.join(VERBS)}){near_miss(word, VERBS)}; see --help")
            return args.pop(place)
    return "run"


def _take_run(verb: str, args: list[str]) -> str:
    """The RUN of a verb that takes one: the first word that is neither flag nor KEY=VALUE; "" for other verbs.

    It is taken out of ``args``. Raises :class:`ConfigError` where it is missing.
    """
    if verb not in TAKE_A_RUN or {"--help", "-h", "--version"} & set(args):
        return ""
    for place in _bare(args):
        return args.pop(place)
    raise ConfigError(f"{verb}: which run? python -m orchestrator {verb} RUN, a name below run_root or a path")


def _take_runs(verb: str, args: list[str]) -> list[str]:
    """The RUNs of a verb that takes any number of them; they are taken out of ``args``."""
    places = _bare(args) if verb in TAKE_RUNS else []
    return [args.pop(place) for place in reversed(places)][::-1]


def _bare(args: Sequence[str]) -> list[int]:
    """Where the words are that are neither flag, nor a flag's value, nor KEY=VALUE."""
    return [
        place
        for place, word in enumerate(args)
        if not (place and args[place - 1] in (*TAKE_A_VALUE, *MAY_TAKE_A_VALUE))
        and not (word.startswith("-") or "=" in word)
    ]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def _check_flags(verb: str, overrides: Sequence[str]) -> None:
    """Hydra would print its whole usage for a flag that it does not know, or that lacks its value."""
    for place, word in enumerate(overrides):
        flag = word.split("=", 1)[0]
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            known = [*HYDRA_FLAGS, "--json", "--csv", "--sort", "--limit", "--version", "--force"]
            raise ConfigError(f"{flag}: no such flag of '{verb}'{near_miss(flag, known)}; see --help")
        if word in TAKE_A_VALUE and all(value.startswith("-") for value in overrides[place + 1 : place + 2]):
            raise ConfigError(f"{word}: needs a value after it; see --help")


def _own_flags(verb: str) -> argparse.ArgumentParser:
    """The few flags that are not Hydra's; ``--help`` is Hydra's, with our text."""
    parser = _Parser(prog=f"orchestrator {verb}", add_help=False, allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    if verb in ("plan", "compare", "status", "incidents"):
        output = parser.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true")
    if verb == "down":
        parser.add_argument("--force", action="store_true")
    if verb == "compare":
        output.add_argument("--csv", action="store_true")
        parser.add_argument("--sort")
        parser.add_argument("--limit", type=_count, default=100)
    return parser


def _config(composed: DictConfig) -> Config:
    from orchestrator import load

    return load.load(composed)


def _chosen(composed: DictConfig, own: argparse.Namespace) -> tuple[Config, Choice | None]:
    """The configuration, with the search's choice where ``layout=auto`` asks for it."""
    if not composed.layout.auto:
        return _config(composed), None
    from orchestrator.choose import choose

    choice = choose(composed, own.overrides)
    return choice.config, choice


def _run(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.run import run

    if _asks_what_to_train(composed):
        raise ConfigError("budget_usd and deadline_days are answered by 'plan'; a run takes job.steps")
    config, choice = _chosen(composed, own)
    if choice is not None:
        from orchestrator.plan.search_show import show_choice

        show_choice(choice.search, choice.overrides, choice.kept, Console(emoji=False))
    return run(config, Console())


def _plan(composed: DictConfig, own: argparse.Namespace) -> int:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from orchestrator.plan.show import plan_json, show_plan
    from orchestrator.preflight import plan_of

    swept = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if _asks_what_to_train(composed):
        return _plan_budget(composed, own, HydraConfig.get().overrides.task if swept else own.overrides)
    if swept:
        return _plan_point(composed, own)
    config, choice = _chosen(composed, own)
    plan = plan_of(config, observed=own.json)
    body, console = plan_json(plan) if own.json else {}, Console(emoji=False)
    if choice is not None:
        from orchestrator.plan.search_show import search_json, show_choice, show_runners_up

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
    from orchestrator.budget import answer
    from orchestrator.budget_show import answer_json, show_answer

    found = answer(composed, words)
    if own.json:
        print(json.dumps(answer_json(found), indent=2, default=str))
    else:
        show_answer(found, Console(emoji=False))
    return 0


def _plan_point(composed: DictConfig, own: argparse.Namespace) -> int:
    """One point of a sweep is kept for the table; one that is refused is no failure of the others."""
    from hydra.core.hydra_config import HydraConfig

    from orchestrator.compare.plans import PlannedPoint
    from orchestrator.preflight import plan_of

    overrides = tuple(HydraConfig.get().overrides.task)
    own.sweep_dir = HydraConfig.get().sweep.dir
    try:
        own.swept.append(PlannedPoint(overrides, plan_of(_chosen(composed, own)[0], observed=own.json)))
    except ConfigError as error:
        own.swept.append(PlannedPoint(overrides, None, str(error)))
    if sys.stderr.isatty():
        print(f"\rplanned: {len(own.swept)}", end="", file=sys.stderr, flush=True)
    return 0


def _show_plans(first: DictConfig, own: argparse.Namespace, scratch: str) -> int:
    from orchestrator.compare.plans_show import plans_json, refuse_if_none, show_plans

    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if own.json:
        print(plans_json(own.swept))
        refuse_if_none(own.swept)
    else:
        named = own.sweep_dir if own.sweep_dir != scratch else f"{first.run_root}/sweeps/{time.strftime(SWEEP_NAME)}"
        show_plans(own.swept, Path(named) / "plans.png", Console())
    return 0


def _compare(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.compare.compare import compare
    from orchestrator.load import load_tracking

    tracking = load_tracking(composed)
    output: Literal["json", "csv", "table"] = "json" if own.json else "csv" if own.csv else "table"
    compare(tracking.uri, tracking.experiment, own.sort, output, own.limit, Console())
    return 0


def _resume(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.run import run
    from orchestrator.rundir import find_run
    from orchestrator.taking_up import resume

    path = find_run(own.run_ref, composed.run_root).resolve()
    return resume(path, lambda config, found: run(config, Console(), found))


def _sync(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.sync import sync

    sync(own.run_ref, composed.run_root, Console())
    return 0


def _incidents(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.incidents import incidents

    incidents(own.run_ref, composed.run_root, own.json, Console())
    return 0


def _calibrate(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.calibrate import calibrate
    from orchestrator.calibration_file import calibration_path
    from orchestrator.load import load_planner

    path = calibration_path(composed.run_root, composed.calibration)
    calibrate(own.run_refs, composed.run_root, path, load_planner(composed), Console())
    return 0


def _up(composed: DictConfig, _own: argparse.Namespace) -> int:
    from orchestrator.keep import up

    return up(_config(composed), Console())


def _status(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.keep import status

    return status(_config(composed), None if own.json else Console())


def _down(_composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.keep import down

    return down(Console(), own.force)


_VERBS: dict[str, Callable[[DictConfig, argparse.Namespace], int]] = {
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


def _guard(work: Callable[[], int]) -> int:
    try:
        return work()
    except OrchestratorError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(error: OrchestratorError) -> int:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {error}", style="bold red")
    return error.exit_code
