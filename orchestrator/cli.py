"""Verbs → compose → wire; no logic. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from orchestrator import __version__, load
from orchestrator.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ConfigError, OrchestratorError, near_miss

VERBS = ("run", "resume", "sync", "incidents", "plan", "compare", "up", "status", "down")
TAKE_A_RUN = ("resume", "sync", "incidents")
HYDRA_FLAGS = (
    "--help", "-h", "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--info", "-i",
)  # fmt: skip
TAKE_A_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun", "--sort", "--limit",
)  # fmt: skip
MAY_TAKE_A_VALUE = ("--info", "-i")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (see :mod:`orchestrator.errors`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        verb = _take_verb(args)
        run_ref = _take_run(verb, args)
        own, overrides = _own_flags(verb).parse_known_args(args)
        own.run_ref = run_ref
        _check_flags(verb, overrides)
    except ConfigError as error:
        return _fail(error)
    if own.version:
        print(f"orchestrator {__version__}")
        return 0
    # Hydra would print its errors and exit by itself; with this it hands them to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    load.register()
    codes: list[int] = []
    called: list[DictConfig] = []

    def task(composed: DictConfig) -> None:
        called.append(composed)
        codes.append(_guard(lambda: _VERBS[verb](composed, own)))
        if codes[-1] in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            raise SystemExit(codes[-1])  # ends a sweep too: the next run was not asked for any more

    sys.argv = [sys.argv[0], *overrides]
    entry = hydra.main(version_base="1.3", config_path=str(load.conf_dir()), config_name="config")(task)
    try:
        entry()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        from orchestrator.cli_errors import explain

        return _fail(ConfigError(explain(error, overrides)))
    except OrchestratorError as error:
        return _fail(error)
    except ValueError as error:
        if called:
            raise
        return _fail(ConfigError(str(error)))  # Hydra's word on an override that makes no sense, e.g. model=null
    return max(codes, default=0)


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
    for place, word in enumerate(args):
        value = place and args[place - 1] in (*TAKE_A_VALUE, *MAY_TAKE_A_VALUE)
        if not (value or word.startswith("-") or "=" in word):
            return args.pop(place)
    raise ConfigError(f"{verb}: which run? python -m orchestrator {verb} RUN, a name below run_root or a path")


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


def _run(composed: DictConfig, _own: argparse.Namespace) -> int:
    from orchestrator.run import run

    return run(load.load(composed), Console())


def _plan(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.plan.show import plan_json, show_plan
    from orchestrator.preflight import plan_of

    plan = plan_of(load.load(composed))
    if own.json:
        print(json.dumps(plan_json(plan), indent=2))
    else:
        show_plan(plan, Console())
    return 0


def _compare(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.compare.compare import compare

    tracking = load.load_tracking(composed)
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


def _up(composed: DictConfig, _own: argparse.Namespace) -> int:
    from orchestrator.keep import up

    return up(load.load(composed), Console())


def _status(composed: DictConfig, own: argparse.Namespace) -> int:
    from orchestrator.keep import status

    return status(load.load(composed), None if own.json else Console())


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


def _fail(error: OrchestratorError) -> int:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {error}", style="bold red")
    return error.exit_code
