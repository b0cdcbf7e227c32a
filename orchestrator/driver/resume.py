"""A run whose driver died, or that was stopped, is taken up again: its configuration, its journal, its
place."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator import papers
from orchestrator.config import load
from orchestrator.config.resume_changes import STEPS, Changed, Wishes, references_of, with_changes
from orchestrator.config.schema import Config, Resume
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.events import Record, RunEnded, RunResumed, Status
from orchestrator.ledger.run_directory import RESUME, RunDirectory
from orchestrator.rank.environment import reaching_ranks
from orchestrator.redact import known, learn
from orchestrator.trust import check_ours

_MOST_NAMED = 12


@dataclass(frozen=True)
class _SavedRun:
    """What ``resume.json`` holds; names, secrets and references came later than the rest. ``references`` are
    the values that follow a key which may be changed, by their paths."""

    cwd: str
    config: dict[str, Any]
    forwarded: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unfinished:
    """A run that has not finished, as its journal tells it."""

    path: Path
    name: str
    fold: JournalFold
    # names of the variables that its ranks had from the shell that started it
    forwarded: tuple[str, ...] = ()
    references: dict[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()  # KEY=VALUE that it goes on with, other than before
    typed_in: Path = field(default_factory=Path.cwd)  # where the command was given

    @property
    def resumed(self) -> RunResumed:
        """The first event of the driver that takes it up."""
        folded = self.fold.folded
        step = folded.resume_state.history.highest_step
        if isinstance(folded.driver, RunEnded):
            return RunResumed(self.name, f"it had ended as {folded.driver.status.value} at step {step}")
        return RunResumed(self.name, f"its driver was lost after step {step}")

    def folded(self) -> Folded:
        """What its next driver must know of it; to be asked once its directory is held.

        Raises :class:`RunDirectoryError` where another driver has finished it meanwhile.
        """
        if _has_finished(self.fold.catch_up()):
            raise RunDirectoryError(
                f"{self.path}: its run has finished meanwhile; there is nothing to resume"
            )
        return self.fold.copy()


def remember(config: Config, directory: RunDirectory, takes_up: Unfinished | None = None) -> None:
    """Keep the whole configuration, secrets included, for our user alone; of the shell's variables the names
    only. A run that goes on with changes keeps what is known of its beginning."""
    names = sorted(reaching_ranks(os.environ, config.launch.forward))
    references = takes_up.references if takes_up else references_of(config)
    saved = _SavedRun(os.getcwd(), load.to_container(config), names, known(), references)
    directory.write(RESUME, json.dumps(asdict(saved), indent=2) + "\n", mode=0o600)


def unfinished(path: Path) -> Unfinished | None:
    """The run in a directory, None where there is none, or where it has finished.

    Raises :class:`~orchestrator.errors.JournalError` for a journal that is damaged.
    """
    fold = JournalFold(path)
    folded = fold.catch_up()
    fold.keep_if_worth_it()
    if folded.run is None or _has_finished(folded):
        return None
    return Unfinished(path, folded.run.run, fold)


def _has_finished(folded: Folded) -> bool:
    return isinstance(folded.driver, RunEnded) and folded.driver.status is Status.FINISHED


def to_take_up(config: Config, trust: bool = False) -> Unfinished | None:
    """With ``job.resume=auto``: the run of this name or directory that has not finished, if there is one.

    Raises :class:`ConfigError` where neither name nor directory says which run is meant, and unless ``trust``
    for one that is not ours, before anything in it is read.
    """
    if config.job.resume is not Resume.auto:
        return None
    if not config.run_name and not config.run_dir:
        raise ConfigError("job.resume=auto: which run? Give it a run_name or a run_dir, the same every time")
    path = Path(config.run_dir or Path(config.run_root) / str(config.run_name)).resolve()
    closed = path.exists() and not os.access(path, os.R_OK | os.X_OK)
    if not trust and (closed or os.path.lexists(path / "journal.jsonl")):
        check_ours(path, "a run")
    return unfinished(path)


def resumable(path: Path, wishes: Wishes | None = None) -> tuple[Config, Unfinished]:
    """The run in a directory, to be gone on with as it was configured and from where it was started: this
    process is there from now on. ``wishes`` change what may be changed.

    Raises :class:`RunDirectoryError` where there is nothing to resume, or not enough to do it with, and
    :class:`ConfigError` for a change that makes it another run.
    """
    found = unfinished(path)
    if found is None:
        raise RunDirectoryError(
            f"{path}: its run has finished; there is nothing to resume. To train on, start another run with"
            f" job.checkpoint_dir={path / 'checkpoints'} and a larger job.steps"
        )
    try:
        saved = papers.made(_SavedRun, papers.read_object(path / RESUME))
        is_dir = os.path.isdir(saved.cwd)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path / RESUME}: {getattr(error, 'strerror', None) or error}; without its configuration the run"
            " cannot be taken up, but a new one with job.checkpoint_dir set to its folder goes on from its"
            " checkpoints"
        ) from None
    if is_dir:
        os.chdir(saved.cwd)  # paths of the configuration were meant from there
    learn(saved.secrets, name="secrets")
    changed = with_changes(saved.config, saved.references, path, wishes)
    _check_steps(changed, found)
    changed.config.run_dir = str(path)
    known_of_it = replace(found, forwarded=tuple(saved.forwarded), references=saved.references)
    return changed.config, replace(known_of_it, changed=changed.words)


def _check_steps(changed: Changed, found: Unfinished) -> None:
    """A start with nothing left to do costs as much as any. Raises :class:`ConfigError` for one."""
    steps = changed.config.job.steps
    history = found.fold.folded.resume_state.history
    saved = history.committed or history.restorable
    if steps is None or not saved or steps > saved[-1]:
        return
    asked = [word for word in changed.words if word.startswith(f"{STEPS}=")]
    if asked:
        raise ConfigError(
            f"{asked[0]}: the run has saved step {saved[-1]}, so that nothing would be left to do; ask for"
            f" more steps, or leave it out. Its checkpoints are in {found.path / 'checkpoints'}"
        )


def how_to_go_on(ended: Record | None, directory: Path, typed_in: Path) -> str | None:
    """What to type for a run that may be taken up again; None for one that has finished. ``typed_in`` is the
    folder of the shell that started this driver."""
    if ended is None or not isinstance(ended.event, RunEnded) or ended.event.status is Status.FINISHED:
        return None
    return f"to go on with it: {resume_command(directory, typed_in)}"


def resume_command(directory: Path, typed_in: Path) -> str:
    """What to type in that folder to take a run up."""
    # By its name where it lies where runs lie if nothing else is said.
    by_name = (typed_in / "runs" / directory.name).resolve() == directory.resolve()
    words = [*_command(), "resume", directory.name if by_name else str(directory)]
    return shlex.join(words)


def _command() -> list[str]:
    """As it was typed, where the shell would find the same."""
    name = Path(sys.argv[0]).name
    if name == "orchestrator" and _is_found(name, sys.argv[0]):
        return [name]
    python = "python" if _is_found("python", sys.executable) else sys.executable
    return [python, "-m", "orchestrator"]


def _is_found(name: str, path: str) -> bool:
    found = shutil.which(name)
    return found is not None and os.path.abspath(found) == os.path.abspath(path)


def missing_names(config: Config, takes_up: Unfinished | None) -> str | None:
    """Which variables ranks are to have, or had when the run was started, that this shell does not have."""
    asked = {*config.launch.forward, *(takes_up.forwarded if takes_up else ())}
    missing = sorted(asked - set(os.environ))
    if not missing:
        return None
    named = ", ".join(missing[:_MOST_NAMED]) + (
        f" and {len(missing) - _MOST_NAMED} more" if missing[_MOST_NAMED:] else ""
    )
    return f"not set in this shell, so the ranks do not get it from here: {named}"
