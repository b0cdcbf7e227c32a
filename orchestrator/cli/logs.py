"""``logs``: what a rank has printed, and what it prints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from orchestrator import papers
from orchestrator.driver.rank_log import RankLog, chosen_logs, followed, last_lines
from orchestrator.errors import ConfigError
from orchestrator.ledger.run_directory import RESUME, find_run, holder
from orchestrator.redact import learn, redact_text


def logs(
    run: str,
    run_root: str,
    rank: int,
    attempt: int | None,
    count: int,
    follow: bool,
    trust: bool = False,
) -> None:
    """Print a rank's newest log, or that of an attempt, or the last ``count`` lines of it; with ``follow``
    all that comes, of later attempts too, until the run has ended.

    Raises :class:`~orchestrator.errors.ConfigError` for a run that is not there,
    :class:`~orchestrator.errors.RunDirectoryError` for a rank or an attempt that has no log.
    """
    if follow and attempt is not None:
        raise ConfigError(
            "--attempt: what comes is that of the newest attempt; leave --attempt or --follow out"
        )
    directory = find_run(run, run_root, trust)
    _know_secrets(directory)
    if follow:
        _print(followed(directory, rank, count, lambda: holder(directory) is not None, _say_attempt), True)
    else:
        _print(last_lines(chosen_logs(directory, rank, attempt)[-1], count), False)


def _print(lines: Iterable[str], flush: bool) -> None:
    """As it is, past Rich, which would wrap it; a rank may have printed secrets."""
    try:
        for line in lines:
            sys.stdout.write(redact_text(line) + "\n")
            if flush:
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass  # that is how following ends


def _say_attempt(log: RankLog) -> None:
    if sys.stderr.isatty() or log.attempt > 1:
        print(f"== rank {log.rank}, attempt {log.attempt}: {log.path}", file=sys.stderr, flush=True)


def _know_secrets(directory: Path) -> None:
    """What the run's own process knows of its configuration, where it is ours to read."""
    with contextlib.suppress(OSError, ValueError):
        saved = papers.read_object(directory / RESUME)
        learn(saved)
        learn(saved.get("secrets"), name="secrets")
