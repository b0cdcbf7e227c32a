"""``remote``: a verb on a cluster that is away, as a job of Ray's, whose output and exit code are given back.

Ctrl-C asks the job to stop, as it would ask the verb here, and waits for it; a second one leaves it alone. A
terminal that is closed, or a connection that is lost, ends nothing there.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.remote_words import NO_PROJECT, REMOTE, RemoteCall
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ClusterError, ConfigError
from orchestrator.redact import HIDDEN, redact_text

if TYPE_CHECKING:
    from orchestrator.cluster.remote_jobs import JobEnd, RemoteJob, RemoteJobs

_LAST_LINES = 5


def remote(call: RemoteCall) -> int:
    """Returns the exit code of the verb there. Raises :class:`ConfigError` for what cannot be handed in,
    :class:`ClusterError` where the cluster cannot run it."""
    from orchestrator.cluster import remote_address

    screen = Screen(stderr=True, soft_wrap=True, highlight=False)
    _refuse_secrets(call)
    folder = _folder(call)
    token = remote_address.token()
    remote_address.check_address(call.address, call.ca, token)
    if token and remote_address.is_overheard(call.address):
        screen.print(
            f"{call.address}: the token, and all that is printed, goes there in the clear; https or an SSH"
            " tunnel keeps it from others on the way",
            style="yellow",
        )
    from orchestrator.cluster.remote_jobs import RemoteJob, RemoteJobs

    jobs = RemoteJobs(call.address, call.ca, token, screen.print)
    if call.job:
        return _again(call, RemoteJob(jobs, call.job), screen)
    return _handed_in(call, jobs, folder, screen)


def _again(call: RemoteCall, job: RemoteJob, screen: Screen) -> int:
    """A job that was left alone."""
    ended = job.end()
    if call.stop and ended is None:
        job.stop()
        screen.print(f"{job.name} is asked to stop")
        if call.no_wait:
            return 0
    return _followed(call, job, screen)


def _handed_in(call: RemoteCall, jobs: RemoteJobs, folder: Path | None, screen: Screen) -> int:
    name = call.new_id()
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    command = call.command(name, columns)
    job = jobs.submit(name, command, folder, {"job_name": f"orchestrator {call.verb}"})
    if call.no_wait:
        again = call.again("--job", name)
        screen.print(f"{name} runs at {call.address}; to see what it prints: {again}")
        return 0
    if call.goes_on:
        screen.print(f"{name} runs at {call.address}; Ctrl-C asks it to stop, twice leaves it alone")
    return _followed(call, job, screen)


def _followed(call: RemoteCall, job: RemoteJob, screen: Screen) -> int:
    """Print what it prints until it has ended; its exit code."""
    printed = Printed(job.name)
    asked = False
    while True:
        try:
            end = job.follow(printed.take)
            break
        except KeyboardInterrupt:
            if asked:
                _left(call, job, screen)
                return EXIT_INTERRUPTED
            asked = True
            screen.print(f"{job.name} is asked to stop, with time to save; Ctrl-C again leaves it alone")
            try:
                job.stop()
            except KeyboardInterrupt:
                _left(call, job, screen)
                return EXIT_INTERRUPTED
        except ClusterError:
            _left(call, job, screen)
            raise
    return _code(call, end, printed)


def _left(call: RemoteCall, job: RemoteJob, screen: Screen) -> None:
    screen.print(f"{job.name} is left alone, and goes on there")
    screen.print(f"to see what it prints: {call.again('--job', job.name)}")
    screen.print(f"to stop it:            {call.again('--job', job.name, '--stop')}")


def _code(call: RemoteCall, end: JobEnd, printed: Printed) -> int:
    if end.stopped:
        return EXIT_TERMINATED
    if end.code == NO_PROJECT and not printed.begun:
        raise ConfigError(
            f"--python {call.python}: the cluster has no interpreter of that name with this project; name the"
            " one that Ray runs there, e.g. --python /opt/venv/bin/python"
        )
    if end.code is None or not printed.begun:
        why = " ".join((printed.before or end.why).strip().splitlines()[-_LAST_LINES:])
        raise ClusterError(f"{call.address}: the job did not begin: {why or 'Ray does not say why'}")
    return end.code


class Printed:
    """What a job prints, from the line on with which its command begins; what is before it is Ray's."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{mark}\n"
        self.before, self.begun = "", False

    def take(self, text: str) -> None:
        """Print what is ours of it."""
        if not self.begun:
            self.before += text
            lines = self.before.splitlines(keepends=True)
            if self._mark not in lines:
                return
            place = lines.index(self._mark)
            self.before, text, self.begun = "".join(lines[:place]), "".join(lines[place + 1 :]), True
        sys.stdout.write(text)
        sys.stdout.flush()


def _folder(call: RemoteCall) -> Path | None:
    if call.folder is None or call.job:
        return None
    folder = Path(call.folder).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {call.folder}: no such folder; name the one that has your script")
    if folder in (Path("/"), Path(os.path.expanduser("~")).resolve()):
        raise ConfigError(
            f"--working-dir {call.folder}: that is all of {folder}; go to the folder of your script, or send"
            f" nothing: {REMOTE} {call.address} --no-upload"
        )
    return folder


def _refuse_secrets(call: RemoteCall) -> None:
    """Ray shows a job's command to everybody who may look at the cluster."""
    for word in call.words:
        if HIDDEN in redact_text(word):
            raise ConfigError(
                f"{word.partition('=')[0]}={HIDDEN}: is a secret, and Ray's dashboard would show it; leave it"
                " out, and set it as a variable where Ray was started there"
            )
