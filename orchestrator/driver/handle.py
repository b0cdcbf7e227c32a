"""A run in the hand of a program: started in a process of its own, followed by its journal, stopped and
waited for.

The driver is another process, so that a notebook's cell comes back at once and its interrupt key is the
notebook's: the run goes on when this process ends. All that is told of it is read from its journal, which is
why a run that was started elsewhere, or long ago, has the same handle.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import load
from orchestrator.config.schema import Config
from orchestrator.driver import stop_file
from orchestrator.driver.child import ask
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.observer import Observer
from orchestrator.driver.planning import settled
from orchestrator.errors import ConfigError, RunDirectoryError, TrainingFailed
from orchestrator.events import Record, RunEnded, Status
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.journal import Tail
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.money import Money
from orchestrator.ledger.run_directory import LOST, check_run_name, find_run, holder, new_run_name
from orchestrator.redact import known

if TYPE_CHECKING:
    from orchestrator.planner.calibrate import Calibrated

DRIVER_LOG = "driver.log"
# From the driver's first line of Python to its directory: imports and a plan, on a machine that is busy.
_BEGIN_TIMEOUT_S = 120.0
_POLL_S = 0.2


class Run:
    """One run, by its directory. Every property is read anew from the journal, and raises
    :class:`~orchestrator.errors.JournalError` where that is damaged."""

    def __init__(self, path: Path, driver: subprocess.Popen[bytes] | None = None, before: int = -1) -> None:
        """Made by :func:`orchestrator.start`, :func:`orchestrator.resume` and :func:`orchestrator.open_run`.

        Args:
            path: The run's directory.
            driver: Its driver, where this process started it.
            before: The last record of an earlier driver; an end up to there is not that of ``driver``.
        """
        self.path = path
        self._driver = driver
        self._fold = JournalFold(path)
        self._before = before

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.state}>"

    @property
    def name(self) -> str:
        """The run's name, as it stands in MLflow."""
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
        return self._fold.catch_up().ledger.bill()

    @property
    def incidents(self) -> list[Incident]:
        """What broke, what was done and what it cost."""
        return self._fold.catch_up().ledger.incidents()

    @property
    def money(self) -> Money:
        """Where it went: the bill by what it was spent on, by attempt and by incident."""
        return self._fold.catch_up().ledger.money()

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints that are committed and not quarantined, oldest first."""
        return self._fold.catch_up().resume_state.history.committed

    def logs(self, rank: int = 0) -> str:
        """Return what a rank has printed in its newest attempt.

        Args:
            rank: Its number.

        Raises:
            RunDirectoryError: It has no log yet.
        """
        found = list((self.path / "logs").glob(f"attempt-*.rank-{rank}.log"))
        if not found:
            raise RunDirectoryError(f"{self.path}/logs: there is no log of rank {rank} yet")
        newest = max(found, key=lambda path: int(path.name.split(".")[0].removeprefix("attempt-")))
        return newest.read_text(errors="replace")

    def follow(self) -> Iterator[Record]:
        """Yield the journal's records from the first one on, as they are written, until the run has ended or
        its driver is lost.

        Raises:
            JournalError: The journal is damaged.
        """
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

    def watch(self, *observers: Observer) -> None:
        """Tell observers every record from the first one on, each with the bill at its time; returns at the
        run's end.

        Args:
            observers: Whatever has ``observe(record, bill)``.

        Raises:
            JournalError: The journal is damaged.
        """
        ledger = Ledger()
        for record in self.follow():
            ledger.fold(record)
            bill = ledger.bill()
            for observer in observers:
                observer.observe(record, bill)

    def stop(self, grace_s: float | None = None) -> None:
        """Ask the run to stop, on whatever machine that shares its directory its driver is. Nothing happens
        where no driver holds it.

        Args:
            grace_s: After so long it is asked a second time, and stops at once. Left out, its ranks have
                ``recovery.stop_grace_s`` to save, and this returns at once.

        Raises:
            RunDirectoryError: Its driver cannot be asked: this user may not, or it is of an older version.
        """
        self._signal()
        if grace_s is not None:
            self._wait(grace_s)
            self._signal()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait for its end; returns the state.

        Args:
            timeout_s: Left out it waits for as long as the run lasts.

        Raises:
            TimeoutError: It goes on.
        """
        if not self._wait(timeout_s):
            raise TimeoutError(f"{self.path}: it goes on after {timeout_s:g} s ({self.state})")
        return self.state

    def result(self, timeout_s: float | None = None) -> Bill:
        """Wait for its end; returns the bill.

        Args:
            timeout_s: Left out it waits for as long as the run lasts.

        Raises:
            TrainingFailed: It did not finish; the message is the diagnosis.
            RunDirectoryError: Its driver was lost; :func:`orchestrator.resume` takes it up.
            TimeoutError: It goes on.
        """
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
        last, ledger = self._fold.folded.last, self._fold.folded.ledger
        taken_up = last is not None and isinstance(last.event, RunEnded)
        return (Bucket.RECOVERING if taken_up else ledger.bucket).value

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
        if not self._lives():
            return
        if self._driver is not None:
            self._driver.send_signal(signal.SIGTERM)
        else:  # the number of its process means nothing on another machine
            stop_file.ask(self.path)


def start(config: Config, trust: bool = False) -> Run:
    """Start a run in a process of its own; returns once its directory is held and nothing has been refused.

    The run's own words are in ``driver.log`` of its directory.

    Args:
        config: Of :func:`orchestrator.compose`. With ``layout=auto`` a layout is searched first.
        trust: Whether a folder that is there already may be somebody else's.

    Raises:
        OrchestratorError: Whatever it is refused for, before anything was started.
    """
    config = settled(config)
    _refuse_budget(config)
    container = load.to_container(config)
    name = config.run_name or new_run_name(config.job.name)
    check_run_name(name)
    container["run_name"] = name
    return _begun({"config": container, "trust": trust, "secrets": known()}, before=-1)


def resume(run: Run | str | Path, run_root: str = "runs", trust: bool = False) -> Run:
    """Take up a run whose driver was lost, or that was stopped; returns as :func:`orchestrator.start` does.

    Args:
        run: The run, its path, or its name below ``run_root``.
        run_root: The folder of the runs.
        trust: Whether it may be somebody else's.

    Raises:
        ConfigError: There is no such run, or it is not ours.
        RunDirectoryError: It has finished, or goes on, or lacks its configuration.
    """
    path = run.path if isinstance(run, Run) else find_run(str(run), run_root, trust)
    last = JournalFold(path).catch_up().last
    return _begun({"resume": str(path), "trust": trust, "secrets": known()}, -1 if last is None else last.seq)


def open_run(run: str | Path, run_root: str = "runs", trust: bool = False) -> Run:
    """Open a run that is there, whoever started it and whether it goes on or has ended.

    Args:
        run: Its path, or its name below ``run_root``.
        run_root: The folder of the runs.
        trust: Whether it may be somebody else's.

    Raises:
        ConfigError: There is none, with the near misses by name; or it is not ours.
    """
    return Run(find_run(str(run), run_root, trust))


def run(config: Config, trust: bool = False) -> Run:
    """Start a run and wait for its end; returns it.

    Args:
        config: As of :func:`orchestrator.start`.
        trust: As of :func:`orchestrator.start`.

    Raises:
        TrainingFailed: It did not finish; the message is the diagnosis.
        OrchestratorError: Whatever it was refused for.
    """
    started = start(config, trust)
    started.result()
    return started


def calibrate(
    runs: Sequence[Run | str | Path] = (), config: Config | None = None, trust: bool = False
) -> Calibrated:
    """Fit the planner to what runs have taken, and write that where plans find it.

    Args:
        runs: The runs, their paths or their names below ``run_root``; none means all there that have
            finished.
        config: Of :func:`orchestrator.compose`; of it count ``run_root``, ``calibration`` and ``planner``.
        trust: Whether runs may be somebody else's.

    Raises:
        ConfigError: A run is not there, or none can be used: why, by its name.
        RunDirectoryError: The file cannot be written.
    """
    from orchestrator.config.composing import compose
    from orchestrator.planner import calibrate as fitting
    from orchestrator.planner.calibration_file import calibration_path

    config = config or compose()
    if isinstance(runs, str | Path | Run):
        raise ConfigError(f"calibrate: {runs} is one run; give a list of runs")
    refs = [str(one.path) if isinstance(one, Run) else str(one) for one in runs]
    path = calibration_path(config.run_root, config.calibration)
    return fitting.calibrate(refs, config.run_root, path, config.planner, trust=trust)


def _refuse_budget(config: Config) -> None:
    if config.budget_usd is not None or config.deadline_days is not None:
        raise ConfigError("budget_usd and deadline_days are answered by plan_budget; a run takes job.steps")
    if config.serve.asked or config.serve.requests_per_day is not None:
        raise ConfigError("serve: a load is answered by plan_serving; a run trains, and leaves serve out")


def _begun(payload: dict[str, Any], before: int) -> Run:
    driver, answer = ask(payload, _BEGIN_TIMEOUT_S)
    return Run(Path(answer["path"]), driver, before)
