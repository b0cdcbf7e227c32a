"""Words → compose → verb; no logic."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from orchestrator import output
from orchestrator.cli.args import Invocation, flags_last, parse
from orchestrator.cli.export_verb import ExportSweep, is_exported_sweep
from orchestrator.cli.remote_words import RemoteCall
from orchestrator.cli.run_sweep import RunSweep, is_run_of_sweep, refuse_blind
from orchestrator.cli.show.screen import Screen
from orchestrator.cli.submit_sweep import SubmitSweep, is_submitted_sweep
from orchestrator.cli.verbs import VERBS, PlannedSweep, is_point
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
    try:
        # The process is all ours unless a program calls us.
        with _no_garbage_yet(keep=argv is None):
            invocation = parse(sys.argv[1:] if argv is None else argv)
            if (text := _text(invocation)) is not None:
                print(text)
                return 0
            if invocation.remote is not None:
                return _guard(partial(_call_remote, invocation.remote))
            composed = _composed(invocation)
            if invocation.command_remark:
                Screen(stderr=True, soft_wrap=True, highlight=False).print(
                    invocation.command_remark, markup=False
                )
    except OrchestratorError as error:
        return _fail(error)
    return _by_hydra(invocation) if composed is None else _call(composed, invocation)


def _text(invocation: Invocation) -> str | None:
    """What is printed without a configuration; None for what needs one."""
    if invocation.version:
        from orchestrator.driver.doctor import version

        return version()
    if invocation.help:
        from orchestrator.cli.verb_help import page

        return page(invocation.verb)
    if invocation.shell:
        from orchestrator.cli.completion import script

        return script(invocation.shell)
    return None


def _call_remote(call: RemoteCall) -> int:
    from orchestrator.cli.remote import remote

    return remote(call)


def _composed(invocation: Invocation) -> DictConfig | None:
    """The configuration; None where that is left to Hydra's own command line. Raises :class:`ConfigError`."""
    from orchestrator.config.composing import composed

    if invocation.is_for_hydra:
        return None
    found = composed(invocation.words)
    return None if found.asks_for_hydra else found.config


def _call(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.config.composing import refusals

    try:
        with refusals(invocation.words):  # a verb may be the first to look at a value
            return _guard(lambda: VERBS[invocation.verb](composed, invocation))
    except ConfigError as error:
        return _fail(error)


def _by_hydra(invocation: Invocation) -> int:
    """Have ``hydra.main`` do what its flags ask for: print and end, or call the verb, for each point of a
    sweep."""
    # Hydra would print its errors and exit by itself; with this it hands them to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    from orchestrator.config import load
    from orchestrator.config.composing import refusals
    from orchestrator.config.guard import refuse_code

    load.register()
    codes: list[int] = []
    called: list[DictConfig] = []
    sweep, ran, exported = PlannedSweep(scratch=_scratch(invocation)), RunSweep(), ExportSweep()
    submitted = SubmitSweep()

    def task(composed: DictConfig) -> float | None:
        """Returns what a sweeper is to make small, if anything is."""
        called.append(composed)
        work = sweep.add if is_point(composed, invocation) else VERBS[invocation.verb]
        work = ran.add if is_run_of_sweep(invocation) else work
        work = exported.add if is_exported_sweep(invocation) else work
        work = submitted.add if is_submitted_sweep(invocation) else work
        codes.append(_guard(lambda: work(composed, invocation)))
        if codes[-1] > SIGNALLED:
            raise SystemExit(codes[-1])  # ends a sweep too: the next run was not asked for any more
        return ran.came_to if ran.points else None

    # The user's own override comes later and wins.
    scratch = [f"hydra.sweep.dir='{sweep.scratch}'"] if sweep.scratch else []
    sys.argv = [sys.argv[0], *scratch, *flags_last(invocation.words)]
    entry = hydra.main(version_base="1.3", config_path=str(load.conf_dir()), config_name="config")(task)
    try:
        with refusals(invocation.words):
            load.offer_files(invocation.words)
            refuse_blind(refuse_code(invocation.words), invocation)
            entry()
    except OrchestratorError as error:
        return _fail(error)
    except ValueError as error:
        if called:
            raise
        # Hydra's word on an override that makes no sense, e.g. model=null
        return _fail(ConfigError(str(error)))
    finally:
        if sweep.scratch:
            shutil.rmtree(sweep.scratch, ignore_errors=True)
    if sweep.points:
        codes.append(_guard(lambda: sweep.show(called[0], invocation)))
    if len(ran.folders) > 1:
        codes.append(_guard(ran.show))
    if exported.points and not any(codes):
        codes.append(_guard(lambda: exported.show(invocation)))
    if submitted.points and not any(codes):
        codes.append(_guard(lambda: submitted.submit(called[0], invocation)))
    return max(codes, default=0)


def _scratch(invocation: Invocation) -> str:
    """A folder for what Hydra writes at a sweep, empty folders and a copy of itself, where the points are
    only plans, or jobs to be queued; "" for anything else."""
    if invocation.verb not in ("plan", "export", "submit") or not invocation.multirun:
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
