"""The MLflow sink: a process of its own that reads a run's journal and writes MLflow.

    python -m orchestrator.ledger.mlflow.sink RUN_DIR

It reads ``RUN_DIR/tracking.json`` and follows ``RUN_DIR/journal.jsonl``. The driver never waits for
MLflow and never speaks to it: a dead server costs the training nothing, and nothing is lost, because
whatever was not sent is still in the journal.

It ends when

- the run has ended and all is written: exit 0. Not written within ``--finish-timeout-s``, or not before a
  person has done something: exit 1 and one line on stderr, also while MLflow does not come back from a call;
- the driver died without a last word. The run is then marked KILLED with the tag ``status=unknown``,
  for nobody is left who would ever end it, and a run that seems to go on for ever hides GPUs that are
  gone. A driver that takes the run up again starts a sink that sets it to RUNNING again;
- another driver has taken the run up meanwhile: its own sink goes on from here, once this one is gone;
- SIGTERM: it writes what there is and leaves the run as it is. When a stop is under way (a job manager
  signals a whole process tree at once) it stays for the run's end.

Whatever MLflow raises meanwhile is tried again, later and later; what lasts is said in one line on stderr,
and that it is over in another.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Before MLflow is imported. A user's own settings win.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "PGCONNECT_TIMEOUT": "10",
}.items():
    os.environ.setdefault(_name, _value)

from orchestrator.errors import OrchestratorError  # noqa: E402
from orchestrator.events import RunResumed, StopRequested  # noqa: E402
from orchestrator.ledger.journal import Tail  # noqa: E402
from orchestrator.ledger.mlflow.client import MlflowRun, run_params  # noqa: E402
from orchestrator.ledger.mlflow.database import DatabaseUnusable  # noqa: E402
from orchestrator.ledger.mlflow.only_writer import only_writer  # noqa: E402
from orchestrator.ledger.mlflow.outage import Outage  # noqa: E402
from orchestrator.ledger.mlflow.pace import Alone, Pace  # noqa: E402
from orchestrator.ledger.mlflow.points import Point  # noqa: E402
from orchestrator.ledger.mlflow.projection import MLFLOW_STATUS, Projection  # noqa: E402
from orchestrator.ledger.mlflow.refusals import ServerRefuses, in_words  # noqa: E402
from orchestrator.ledger.mlflow.sink_log import begin_log, know_secrets  # noqa: E402
from orchestrator.ledger.mlflow.tracking_file import Tracking  # noqa: E402
from orchestrator.ledger.mlflow.views import NOTE  # noqa: E402
from orchestrator.redact import redact_text  # noqa: E402

MAX_BACKOFF_S = 5.0
MAX_BACKOFF_AT_END_S = 1.0
# What a person has to mend is not mended by waiting; they, or whoever makes a database just then, have this
# long.
UNUSABLE_AT_END_S = 3.0
# Beyond the deadline, for a call to MLflow that is under way.
STUCK_S = 2.0
SIGTERM_GRACE_S = 1.0
FLUSH_AT_POINTS = 5_000
MAX_PENDING_POINTS = 200_000

_log = logging.getLogger("orchestrator.mlflow_sink")


@dataclass(frozen=True)
class Ending:
    """How to leave the MLflow run; ``status`` None leaves it running."""

    status: str | None


class Sink:
    """Follows one journal into one MLflow run; an end within its first ``earlier_bytes`` is not the
    driver's.

    ``driver_gone`` tells whether nobody writes the journal any more, ``pace`` how often to look and to write,
    and ``tell`` is told what a person should know. ``calling_since_s`` is when MLflow was called, None while
    it is not; ``ending_since_s`` when the last of it was begun with, None before.
    """

    def __init__(
        self,
        run_dir: Path,
        tracking: Tracking,
        driver_gone: Callable[[], bool],
        earlier_bytes: int = 0,
        tell: Callable[[str], None] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._journal = run_dir / "journal.jsonl"
        self._tracking, self._driver_gone, self._earlier_bytes = tracking, driver_gone, earlier_bytes
        self._run = MlflowRun(run_dir, tracking)
        self._pace = pace or Alone()
        self._next_try_s = self._next_flush_s = time.monotonic()
        self._backoff_s = 0.0
        self._told_s: float | None = None
        self.calling_since_s: float | None = None
        self.ending_since_s: float | None = None
        self._given_up = False
        self.outage = Outage(tell or say)
        self._unusable = False
        self._tail = Tail(self._journal)
        self._projection = Projection(tracking.flush_s, run_params(tracking), tracking.go_on)
        self._pending: list[Point] = []
        self._done_seq = self._resumed_seq = -1
        self._overflowed = self._stopping = self._closed = self._upload_tried = False

    def told_to_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self._told_s = time.monotonic()

    def give_up(self) -> None:
        """Nobody waits for the rest: MLflow is called no more."""
        self._given_up = True

    def shortfall(self) -> str:
        """That MLflow lacks something, for how long it has been tried, and why."""
        waited = f"within {time.monotonic() - (self.ending_since_s or time.monotonic()):.0f} s"
        error = self.outage.last_error or "no answer"
        return f"MLflow did not take everything {waited} ({error}); the journal has it all"

    def follow(self, stop_timeout_s: float) -> Ending:
        """Write as records come, until there is a reason to end."""
        while True:
            if self._given_up:
                return Ending(None)
            gone = self._driver_gone()  # asked before reading: what it wrote is then read
            if self._read():
                continue
            if self._projection.ended and (gone or self._tail.offset > self._earlier_bytes):
                return Ending(MLFLOW_STATUS[self._projection.ended.status])
            if gone:
                return Ending("KILLED")
            if self._told_s is not None and self._may_leave(time.monotonic() - self._told_s, stop_timeout_s):
                return Ending(None)
            if time.monotonic() >= self._next_flush_s:
                worked_s = time.thread_time()
                self._flush(MAX_BACKOFF_S)
                worked_s = time.thread_time() - worked_s
                self._next_flush_s = time.monotonic() + self._pace.flush_s(self._tracking.flush_s, worked_s)
            time.sleep(self._pace.poll_s())

    def finish(self, ending: Ending, timeout_s: float) -> bool:
        """Write all that is left and end the MLflow run; False when the server did not take it in time,
        or will not before a person has done something, or when told to stop meanwhile."""
        self.ending_since_s = began_s = time.monotonic()
        deadline_s = began_s + timeout_s
        self._next_try_s = time.monotonic()
        told_s, ended_seq = self._told_s, self._done_seq
        while time.monotonic() < deadline_s and self._told_s == told_s and not self._given_up:
            while self._read():
                pass
            if self._resumed_seq > ended_seq:
                return True
            if self._flush(MAX_BACKOFF_AT_END_S) and self._end(ending):
                return True
            if self._unusable and time.monotonic() - began_s > UNUSABLE_AT_END_S:
                return False
            time.sleep(self._pace.poll_s())
        return False

    def _read(self) -> bool:
        records = self._tail.read()
        for record in records:
            self._stopping = self._stopping or isinstance(record.event, StopRequested)
            if isinstance(record.event, RunResumed):
                self._stopping, self._resumed_seq = False, record.seq
            points = self._projection.fold(record)
            if record.seq > self._run.written_seq and not self._overflowed:
                self._pending += points
            self._done_seq = record.seq
        if len(self._pending) > FLUSH_AT_POINTS:
            self._flush(MAX_BACKOFF_S)
        if len(self._pending) > MAX_PENDING_POINTS:
            _log.warning("the server is away for long; will read the journal again when it is back")
            self._overflowed, self._pending = True, []
        return bool(records)

    def _rewind(self) -> None:
        self._tail = Tail(self._journal)
        tracking = self._tracking
        self._projection = Projection(tracking.flush_s, run_params(tracking), tracking.go_on)
        self._pending, self._done_seq = [], -1
        self._overflowed = self._closed = False

    def _may_leave(self, waited_s: float, stop_timeout_s: float) -> bool:
        if self._stopping:
            return waited_s > stop_timeout_s
        return waited_s > SIGTERM_GRACE_S

    def _flush(self, max_backoff_s: float) -> bool:
        """True when all that was read has been written."""
        return self._try(self._write, max_backoff_s)

    def _write(self) -> bool:
        if self._projection.first_ms is None:
            return True  # a run that never began (no cluster, say) leaves no MLflow run behind
        skipped_to = self._run.written_seq
        self._run.open(self._projection.first_ms)
        if self._overflowed or self._run.written_seq < skipped_to:
            # Points are missing here: too many to keep, or MLflow has lost the run they were written to.
            self._rewind()
            return False
        tags = self._projection.script.tags | self._projection.tags
        scripts_note = tags.pop(NOTE, None)
        writes: tuple[Callable[[], None], ...] = (
            lambda: self._run.write_params(self._projection.script.params),
            lambda: self._run.write_note(self._projection.note, scripts_note),
            lambda: self._run.write_tags(tags),
            lambda: self._run.write(self._pending, max(self._done_seq, skipped_to)),
        )
        for write in writes:
            if self._given_up:
                return False
            write()
        self._pending = []
        return True

    def _end(self, ending: Ending) -> bool:
        status = ending.status
        if status is None or self._projection.first_ms is None:
            return True
        if not self._projection.ended and not self._closed:
            self._pending = self._projection.final_points("unknown", "driver lost")
            self._closed = True
            if not self._flush(MAX_BACKOFF_AT_END_S):
                return False
        if not self._upload_tried:
            # Artifacts may live on another server, whose absence must not hide how the run ended.
            self._upload_tried = True
            self._run.keep_incidents(self._projection.incidents())
            self._try(self._run.upload, 0.0)
        if not self._try(lambda: self._run.end(status, self._projection.last_ms), MAX_BACKOFF_AT_END_S):
            return False
        return self._try(self._run.upload, MAX_BACKOFF_AT_END_S)

    def _try(self, action: Callable[[], bool | None], max_backoff_s: float) -> bool:
        if time.monotonic() < self._next_try_s or self._given_up:
            return False
        try:
            with self._pace.turn() as has_turn:
                if not has_turn:
                    return False
                self.calling_since_s = time.monotonic()
                with in_words(self._tracking.uri, self._tracking.experiment):
                    done = action() is not False
        except Exception as error:  # noqa: BLE001 - an end of this process would cost the run all that is still to come
            self._failed(error, max_backoff_s)
            return False
        finally:
            self.calling_since_s = None
        self._backoff_s, self._unusable = 0.0, False
        self.outage.over()
        return done

    def _failed(self, error: Exception, max_backoff_s: float) -> None:
        self._unusable = isinstance(error, DatabaseUnusable | ServerRefuses)
        self.outage.failed(error, at_once=self._unusable)
        self._backoff_s = min(max_backoff_s, max(0.25, 2 * self._backoff_s))
        self._next_try_s = time.monotonic() + self._backoff_s
        _log.warning("not written, next try in %.1f s: %s", self._backoff_s, self.outage.last_error)
        _log.debug("", exc_info=error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="orchestrator.ledger.mlflow.sink", description="Journal to MLflow.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--finish-timeout-s", type=float, default=60.0)
    parser.add_argument(
        "--parent-pid", type=int, default=os.getppid(), help="leave when it is gone; 0: is gone"
    )
    parser.add_argument(
        "--earlier-bytes", type=int, default=0, help="of the journal, by drivers before this one"
    )
    options = parser.parse_args(arguments)
    begin_log(options.run_dir / "logs" / "mlflow_sink.log")
    try:
        return _follow(options)
    except OrchestratorError as error:
        return _fail(str(error), error.exit_code)
    except (OSError, ValueError, TypeError) as error:
        return _fail(f"{options.run_dir}/tracking.json: {error}", 1)


def _follow(options: argparse.Namespace) -> int:
    run_dir, timeout_s = options.run_dir, options.finish_timeout_s
    tracking = Tracking.read(run_dir / "tracking.json")
    know_secrets(run_dir, tracking)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    with only_writer(run_dir):
        driver_gone = functools.partial(_is_gone, options.parent_pid)
        sink = Sink(run_dir, tracking, driver_gone, options.earlier_bytes)
        signal.signal(signal.SIGTERM, sink.told_to_stop)
        _log.info("following %s", run_dir)
        ending = sink.follow(timeout_s)
        with _ended_when_stuck(timeout_s + STUCK_S, sink.shortfall):
            if sink.finish(ending, timeout_s):
                return 0
    return _fail(sink.shortfall(), 1)


def _is_gone(parent_pid: int) -> bool:
    return os.getppid() != parent_pid


@contextmanager
def _ended_when_stuck(after_s: float, message: Callable[[], str]) -> Iterator[None]:
    """A call to MLflow cannot be told to come back. What is on the disk is always right, so this process may
    go."""
    timer = threading.Timer(after_s, lambda: os._exit(_fail(message(), 1)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _fail(message: str, exit_code: int) -> int:
    _log.error(message)
    say(message)
    return exit_code


def say(message: str) -> None:
    """To the driver, which may be gone."""
    with contextlib.suppress(OSError):
        print(redact_text(message), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
