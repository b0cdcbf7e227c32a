"""Words → compose → verb; no logic."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator import __version__, output
from orchestrator.cli.args import check_flags, flags_last, own_flags, take_run, take_runs, take_verb
from orchestrator.cli.show.screen import Screen
from orchestrator.cli.verbs import VERBS, show_swept
from orchestrator.config import surroundings
from orchestrator.errors import EXIT_INTERRUPTED, SIGNALLED, ConfigError, OrchestratorError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Of a refusal: more than any of ours takes that quotes no more than a name.
MOST_SHOWN = 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (see :mod:`orchestrator.errors`)."""
    if argv is None:
        output.take_over()
        surroundings.settle()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        verb = take_verb(args)
        run_ref, run_refs = take_run(verb, args), take_runs(verb, args)
        own, overrides = own_flags(verb).parse_known_args(args)
        own.run_ref, own.run_refs, own.overrides = run_ref, run_refs, overrides
        check_flags(verb, overrides)
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

        from orchestrator.config import load
        from orchestrator.config.words import for_hydra

        load.register()
        try:
            own.overrides = overrides = for_hydra(overrides)
        except ConfigError as error:
            return _fail(error)
        composed_once = load.compose_once(overrides)
    codes: list[int] = []
    called: list[DictConfig] = []

    def task(composed: DictConfig) -> None:
        called.append(composed)
        codes.append(_guard(lambda: VERBS[verb](composed, own)))
        if codes[-1] > SIGNALLED:
            raise SystemExit(codes[-1])  # ends a sweep too: the next run was not asked for any more

    own.swept, scratch = [], _scratch(verb, overrides)
    # The user's own override comes later and wins.
    sys.argv = [sys.argv[0], *([f"hydra.sweep.dir='{scratch}'"] if scratch else []), *flags_last(overrides)]
    entry = hydra.main(version_base="1.3", config_path=str(load.conf_dir()), config_name="config")(task)
    try:
        if composed_once is not None:
            task(composed_once)
        else:
            from orchestrator.config.guard import refuse_code

            refuse_code(overrides)
            entry()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        from orchestrator.config.hydra_errors import explain

        return _fail(ConfigError(explain(error, overrides)))
    except OrchestratorError as error:
        return _fail(error)
    except ValueError as error:
        if called:
            raise
        # Hydra's word on an override that makes no sense, e.g. model=null
        return _fail(ConfigError(str(error)))
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    if own.swept:
        codes.append(_guard(lambda: show_swept(called[0], own, scratch)))
    return max(codes, default=0)


def _scratch(verb: str, overrides: Sequence[str]) -> str:
    """A folder for what Hydra writes at a sweep, empty folders and a copy of itself, where the points are
    only plans; "" for anything else."""
    if verb != "plan" or not {"-m", "--multirun"} & set(overrides):
        return ""
    import tempfile

    return tempfile.mkdtemp(prefix="orchestrator-")


@contextmanager
def _no_garbage_yet(keep: bool) -> Iterator[None]:
    """Imports and composing make a hundred thousand objects that stay; no time is spent on looking for
    garbage among them, with ``keep`` (in a process that is all ours) not later either."""
    gc.disable()
    try:
        yield
    finally:
        if keep:
            gc.freeze()
        gc.enable()


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
    text = _as_one_line(str(error)) if isinstance(error, ConfigError) else str(error)
    Screen(stderr=True, soft_wrap=True, highlight=False).print(f"error: {text}", style="bold red")
    return error.exit_code


def _as_one_line(text: str) -> str:
    """A refusal quotes what was given, which may be pages."""
    text = " ".join(line.strip() for line in text.splitlines())
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]} […] {text[-MOST_SHOWN // 2 :]}"
