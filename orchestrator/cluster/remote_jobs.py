"""Jobs of Ray's own on a cluster that is away, by its public client: handed in, followed, asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from orchestrator.cluster.ray_errors import is_no_such_job, last_line, reason, takes_no_job_yet
from orchestrator.cluster.remote_address import check_address
from orchestrator.errors import ClusterUnreachable, ConfigError, OrchestratorError

# So long what is stopped may take to save; Ray kills it after three seconds if it is told nothing.
_STOP_WAIT_S = 3600
# A connection that says nothing may be one that is gone: then the dashboard is asked whether it is there.
_SILENT_S = 30.0
_AGAIN_S, _GIVE_UP_S = 2.0, 600.0
# So long a cluster that has just begun may take until it starts jobs.
_TAKE_S = 120.0
_LEFT_BEHIND = [".git", ".venv", "__pycache__", "/runs"]
_SHIP_LESS = (
    "name what need not travel in its .rayignore or .gitignore, another folder with --working-dir DIR, or"
    " send none with --no-upload"
)


@dataclass(frozen=True)
class JobEnd:
    """How a job ended. ``code`` is that of its command, None where there was none: it was stopped, or never
    begun; then ``why`` is Ray's word."""

    stopped: bool
    code: int | None
    why: str


class RemoteJobs:
    """The jobs of one cluster. ``say`` is told in a line when it does not answer, and when it does again."""

    def __init__(self, address: str, ca: str | None, token: str | None, say: Callable[[str], None]) -> None:
        """Raises :class:`ConfigError` where no Ray answers, or one that does not take the token."""
        self.address, self.say = address.rstrip("/"), say
        self._ca, self._token = ca, token
        self.check()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with _quiet():
                self.client = JobSubmissionClient(self.address, headers=headers, verify=ca or True)
        except (RuntimeError, ValueError, OSError, RayError) as error:
            raise ConfigError(f"{self.address}: {reason(error)}") from None

    def check(self) -> None:
        """Raises :class:`ConfigError` unless it answers."""
        check_address(self.address, self._ca, self._token)

    def submit(self, job: str, command: str, folder: Path | None, about: dict[str, str]) -> RemoteJob:
        """Have ``command`` run there by a shell, in a copy of ``folder`` if one is given.

        Raises :class:`ConfigError` for a folder that cannot be sent, :class:`ClusterUnreachable`.
        """
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)}}
        if folder is not None:
            environment |= {"working_dir": str(folder), "excludes": _LEFT_BEHIND}
        asked_s, told = time.monotonic(), False
        while True:
            try:
                with _quiet():
                    self.client.submit_job(
                        entrypoint=command, submission_id=job, runtime_env=environment, metadata=about
                    )
                return RemoteJob(self, job)
            except ValueError as error:  # of the folder: it is too large, or is none
                raise ConfigError(f"{folder}: {reason(error)}; {_SHIP_LESS}") from None
            except (RuntimeError, OSError, RayError) as error:
                if not takes_no_job_yet(error) or time.monotonic() - asked_s > _TAKE_S:
                    raise ClusterUnreachable(
                        f"{self.address}: the job was not taken: {last_line(error)}"
                    ) from None
            if not told:
                self.say("the cluster takes no job yet, and is asked again")
            told = True
            time.sleep(_AGAIN_S)


class RemoteJob:
    """One job, which may have been handed in by somebody else."""

    def __init__(self, jobs: RemoteJobs, name: str) -> None:
        self.name, self._jobs = name, jobs
        self._handed_over = 0  # characters of its log

    def stop(self) -> None:
        """Ask its command to end by SIGTERM, and give it time. Raises :class:`ClusterUnreachable`."""
        try:
            self._jobs.client.stop_job(self.name)
        except (RuntimeError, OSError, RayError) as error:
            raise ClusterUnreachable(
                f"{self._jobs.address}: {self.name} was not asked to stop: {reason(error)}"
            ) from None

    def end(self) -> JobEnd | None:
        """How it has ended; None while it goes on.

        Raises :class:`ConfigError` for one that is not there, and what a connection raises.
        """
        try:
            found: JobDetails = self._jobs.client.get_job_info(self.name)
        except RuntimeError as error:
            if is_no_such_job(error):
                raise ConfigError(
                    f"--job {self.name}: {self._jobs.address} has no such job; 'ray job list' lists them"
                ) from None
            raise
        if not found.status.is_terminal():
            return None
        stopped = found.status == JobStatus.STOPPED
        return JobEnd(stopped, found.driver_exit_code, (found.message or "").strip())

    def follow(self, heard: Callable[[str], None]) -> JobEnd:
        """Hand over all that its command prints until it has ended. Where this was left by an exception, it
        goes on the next time.

        A cluster that does not answer for a while is asked again. Raises :class:`ConfigError` for a job that
        is not there, :class:`ClusterUnreachable` after ten minutes of silence.
        """
        lost_s: float | None = None
        while True:
            try:
                self.end()  # a job that is not there has no log either, and is told as such
                asyncio.run(self._hear(heard))
                end = self.end()
                if lost_s is not None:
                    self._jobs.say(f"{self._jobs.address} answers again")
                    lost_s = None
                if end is not None:
                    return end
            except OrchestratorError:
                raise
            except Exception as error:  # noqa: BLE001 - the client's libraries raise what they like
                lost_s = self._lost(lost_s, error)
            time.sleep(_AGAIN_S)

    def _lost(self, since_s: float | None, error: Exception) -> float:
        """Since when it does not answer."""
        now_s = time.monotonic()
        if since_s is None:
            self._jobs.say(
                f"{self._jobs.address} does not answer ({reason(error)}); the job goes on there, and is asked"
                " for again"
            )
            return now_s
        if now_s - since_s > _GIVE_UP_S:
            raise ClusterUnreachable(f"{self._jobs.address}: no answer for {_GIVE_UP_S / 60:.0f} minutes")
        return since_s

    async def _hear(self, heard: Callable[[str], None]) -> None:
        """All of the log that was not handed over yet, as it comes, until Ray says that there is no more."""
        chunks, place = self._jobs.client.tail_job_logs(self.name), 0
        while True:
            waited = asyncio.ensure_future(anext(chunks))
            while not (await asyncio.wait({waited}, timeout=_SILENT_S))[0]:
                await asyncio.to_thread(self._check)
            try:
                text = waited.result()
            except StopAsyncIteration:
                return
            new, place = text[max(0, self._handed_over - place) :], place + len(text)
            self._handed_over = max(self._handed_over, place)
            if new:
                heard(new)

    def _check(self) -> None:
        """A connection on which nothing comes may be one that is gone."""
        try:
            self._jobs.check()
        except ConfigError as error:
            raise ConnectionError(str(error)) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray's client says in its own way, on standard error, what it sends."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
