"""A run in the hand of a program: started in a process of its own, followed by its journal, stopped and
waited for.

The driver is another process, so that a notebook's cell comes back at once and its interrupt key is the
notebook's: the run goes on when this process ends. All that is told of it is read from its journal, which is
why a run that was started elsewhere, or long ago, has the same handle.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from orchestrator import errors
from orchestrator.config import load
from orchestrator.config.schema import Config
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.errors import ConfigError, OrchestratorError, RunDirectoryError, TrainingFailed
from orchestrator.events import Record, RunEnded, Status
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.journal import Tail
from orchestrator.ledger.run_directory import check_run_name, find_run, holder, new_run_name
from orchestrator.redact import known

LOST = "lost"
DRIVER_LOG = "driver.log"
# From the driver's first line of Python to its directory: imports and a plan, on a machine that is busy.
_BEGIN_TIMEOUT_S = 120.0
_POLL_S = 0.2


class Run:
    """One run, by its directory. Every property is read anew from the journal."""

    def __init__(self, path: Path, driver: subprocess.Popen[bytes] | None = None, before: int = -1) -> None:
        """``before`` is the last record of an earlier driver: an end up to there is not that of
        ``driver``."""
        self.path = path
        self._driver = driver
        self._fold = JournalFold(path)
        self._before = before

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.state}>"

    @property
    def name(self) -> str:
        run = self._fold.catch_up().run
        return run.run if run is not None else self.path.name

    @property
    def state(self) -> str:
        """What its time goes to (a :class:`~orchestrator.ledger.bill.Bucket`), how it ended (a
        :class:`~orchestrator.events.Status`), or ``lost`` where its driver is gone without a last word."""
        # in this order: a driver that is gone has written its last word
        lives, ended = self._lives(), self._ended()
        return ended.status.value if ended is not None else self._bucket() if lives else LOST

    @property
    def bill(self) -> Bill:
        """What it has taken and given: of a run under way, up to its newest record."""
        return self._fold.catch_up().meter.bill()

    @property
    def incidents(self) -> list[Incident]:
        """What broke, what was done and what it cost."""
        return self._fold.catch_up().incidents.so_far()

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints that are committed and not quarantined, oldest first."""
        return self._fold.catch_up().resume_state.history.committed

    def logs(self, rank: int = 0) -> str:
        """What a rank has printed in its newest attempt. Raises :class:`RunDirectoryError` where it has no
        log yet."""
        found = list((self.path / "logs").glob(f"attempt-*.rank-{rank}.log"))
        if not found:
            raise RunDirectoryError(f"{self.path}/logs: there is no log of rank {rank} yet")
        newest = max(found, key=lambda path: int(path.name.split(".")[0].removeprefix("attempt-")))
        return newest.read_text(errors="replace")

    def follow(self) -> Iterator[Record]:
        """The journal from its first record on, as it is written, until the run has ended or its driver is
        lost."""
        tail, over = Tail(self.path / "journal.jsonl"), False
        while True:
            records = tail.read()
            yield from records
            if records:
                continue
            if over:
                return
            over = not self._lives()  # what it wrote last is read once more
            if not over:
                time.sleep(_POLL_S)

    def stop(self, grace_s: float | None = None) -> None:
        """Ask the run to stop: ranks have ``recovery.stop_grace_s`` to save. With ``grace_s`` it is asked a
        second time after so long, and stops at once. Nothing happens where no driver on this machine holds
        it."""
        self._signal()
        if grace_s is not None:
            self._wait(grace_s)
            self._signal()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait for its end; returns the state. Raises ``TimeoutError``, and the run goes on."""
        if not self._wait(timeout_s):
            raise TimeoutError(f"{self.path}: it goes on after {timeout_s:g} s ({self.state})")
        return self.state

    def result(self, timeout_s: float | None = None) -> Bill:
        """Wait for its end; returns the bill. Raises :class:`TrainingFailed` with the diagnosis where it did
        not finish, and :class:`RunDirectoryError` where its driver was lost: :func:`resume` takes it up."""
        self.wait(timeout_s)
        ended = self._ended()
        if ended is None:
            raise RunDirectoryError(
                f"{self.path}: its driver was lost, see {DRIVER_LOG} there; resume takes it up"
            )
        if ended.status is not Status.FINISHED:
            raise TrainingFailed(f"{self.name} {ended.status}: {ended.reason}")
        return self.bill

    def _bucket(self) -> str:
        last, meter = self._fold.folded.last, self._fold.folded.meter
        taken_up = last is not None and isinstance(last.event, RunEnded)
        return (Bucket.RECOVERING if taken_up else meter.bucket).value

    def _ended(self) -> RunEnded | None:
        last = self._fold.catch_up().last
        return (
            last.event
            if last is not None and isinstance(last.event, RunEnded) and last.seq > self._before
            else None
        )

    def _lives(self) -> bool:
        """Our own driver lives until it has told MLflow too; of another one its lock is known."""
        if self._driver is not None:
            return self._driver.poll() is None
        return holder(self.path) is not None

    def _wait(self, timeout_s: float | None) -> bool:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._lives():
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def _signal(self) -> None:
        pid = str(self._driver.pid) if self._driver is not None and self._lives() else holder(self.path)
        if pid is not None and pid.isdigit():
            os.kill(int(pid), signal.SIGTERM)


def start(config: Config, trust: bool = False) -> Run:
    """Start a run in a process of its own; returns once its directory is held and nothing has been refused.

    Raises the :class:`~orchestrator.errors.OrchestratorError` for which it was refused. The run's own words
    are in ``driver.log`` of its directory.
    """
    container = load.to_container(config)
    name = config.run_name or new_run_name(config.job.name)
    check_run_name(name)
    container["run_name"] = name
    return _begun({"config": container, "trust": trust, "secrets": known()}, before=-1)


def resume(run: Run | str | Path, run_root: str = "runs", trust: bool = False) -> Run:
    """Take up a run whose driver was lost, or that was stopped. Raises as :func:`start` does."""
    path = run.path if isinstance(run, Run) else find_run(str(run), run_root, trust)
    last = JournalFold(path).catch_up().last
    return _begun({"resume": str(path), "trust": trust, "secrets": known()}, -1 if last is None else last.seq)


def open_run(run: str | Path, run_root: str = "runs", trust: bool = False) -> Run:
    """A run that is there, by its path or by its name below ``run_root``.

    Raises :class:`~orchestrator.errors.ConfigError` where there is none, and unless ``trust`` for somebody
    else's.
    """
    return Run(find_run(str(run), run_root, trust))


def run(config: Config, trust: bool = False) -> Run:
    """Start a run and wait for its end. Raises as :meth:`Run.result` does."""
    started = start(config, trust)
    started.result()
    return started


def _begun(told: dict[str, Any], before: int) -> Run:
    """In a session of its own, so that the terminal's Ctrl-C is not the run's; what it is told may hold
    secrets, and goes by its standard input."""
    ours, its = os.pipe()
    with open(ours, "rb", buffering=0) as answers:
        try:
            driver = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli.child", str(its)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(its,),
                start_new_session=True,
            )
        finally:
            os.close(its)
        assert driver.stdin is not None
        with driver.stdin as stdin:
            stdin.write(json.dumps(told).encode())
        answer = _answer(answers)
    if answer is None:
        driver.kill()
        driver.wait()
        raise RunDirectoryError(
            f"the run's driver did not begin within {_BEGIN_TIMEOUT_S:g} s; is the machine overloaded?"
        )
    if "error" in answer:
        driver.wait()
        kind = getattr(errors, answer["error"], OrchestratorError)
        raise kind(answer["message"])
    return Run(Path(answer["path"]), driver, before)


def _answer(answers: IO[bytes]) -> dict[str, Any] | None:
    """The driver's one line; an error where it ended without."""
    deadline_s, line = time.monotonic() + _BEGIN_TIMEOUT_S, b""
    while not line.endswith(b"\n"):
        if not select.select([answers], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            return None
        if not (read := answers.read(1 << 16)):
            return {"error": ConfigError.__name__, "message": "the run's driver ended before it had begun"}
        line += read
    said: dict[str, Any] = json.loads(line)
    return said
