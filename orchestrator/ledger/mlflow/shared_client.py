"""One driver of those that share a sink, as the sink sees it: its connection, and the thread that tells
MLflow of its run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.errors import OrchestratorError
from orchestrator.ledger.mlflow.only_writer import only_writer
from orchestrator.ledger.mlflow.pace import Shared
from orchestrator.ledger.mlflow.shared_messages import (
    MOST_LINE_BYTES,
    Done,
    Follow,
    Follows,
    FromSink,
    GiveUp,
    Said,
    from_driver,
    from_sink,
)
from orchestrator.ledger.mlflow.sink import STUCK_S, Sink
from orchestrator.ledger.mlflow.sink_log import know_secrets, log_to
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.papers import PaperError
from orchestrator.redact import redact_text

# A driver that is stopped takes nothing, and is not waited for.
SEND_S = 5.0
_MOST_CHARACTERS = 4000

_log = logging.getLogger("orchestrator.mlflow_sink")


class Logs(logging.Handler):
    """What a thread says goes where it is told to, what any other says to the process's own file."""

    def __init__(self, own: logging.Handler) -> None:
        super().__init__()
        self._own = own
        self._here = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        getattr(self._here, "handler", self._own).handle(record)

    @contextlib.contextmanager
    def of_run(self, path: Path) -> Iterator[None]:
        """This thread's words go there meanwhile."""
        handler = self._here.handler = log_to(path)
        try:
            yield
        finally:
            del self._here.handler
            handler.close()


class Client:
    """Nothing in it waits but its own thread."""

    def __init__(self, channel: socket.socket, logs: Logs, pace: Shared) -> None:
        channel.settimeout(SEND_S)
        self.channel = channel
        self._logs, self._pace = logs, pace
        self._received = b""
        self._thread: threading.Thread | None = None
        self._sink: Sink | None = None
        self._timeout_s = 0.0
        self._lock: IO[str] | None = None
        self._gone_s: float | None = None
        self._given_up_s: float | None = None
        self._is_told_to_stop = self._is_abandoned = False

    @property
    def works(self) -> bool:
        """Whether MLflow is being told of its run."""
        return self._thread is not None and self._thread.is_alive() and not self._is_abandoned

    @property
    def is_over(self) -> bool:
        """Whether neither it nor anybody else needs the connection any more."""
        return self._gone_s is not None and not self.works

    def receive(self) -> bool:
        """Take what the driver says; false when it is gone, or does not speak as one."""
        try:
            data = self.channel.recv(MOST_LINE_BYTES)
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                self._hear(from_driver.decode(line))
        except (OSError, PaperError):
            data = b""
        if data and len(self._received) <= MOST_LINE_BYTES:
            return True
        self._gone_s = time.monotonic()
        return False

    def told_to_stop(self) -> None:
        """What there is is written, and the run left as it is."""
        self._is_told_to_stop = True
        if self._sink is not None:
            self._sink.told_to_stop(signal.SIGTERM, None)

    def is_stuck(self, now_s: float) -> bool:
        """Whether a call to MLflow does not come back that nobody waits for any longer."""
        sink = self._sink
        if sink is None or self._is_abandoned or (calling_s := sink.calling_since_s) is None:
            return False
        ends_s = []
        if sink.ending_since_s is not None:
            ends_s.append(sink.ending_since_s + self._timeout_s)
        if self._given_up_s is not None:
            ends_s.append(self._given_up_s)
        elif self._gone_s is not None:
            ends_s.append(max(self._gone_s, calling_s) + self._timeout_s)
        return bool(ends_s) and now_s > min(ends_s) + STUCK_S

    def abandon(self) -> None:
        """Its thread writes no more once the call has come back; others may from now on."""
        assert self._sink is not None
        self._sink.give_up()
        self._say(self._sink.shortfall())
        self._tell(Done(1))
        self._is_abandoned = True
        self._pace.abandon()
        if self._lock is not None:
            self._lock.close()

    def _hear(self, said: Follow | GiveUp) -> None:
        match said:
            case Follow() if self._thread is None:
                self._thread = threading.Thread(target=self._work, args=(said,), daemon=True)
                self._thread.start()
            case GiveUp():
                self._given_up_s = time.monotonic()
                if self._sink is not None:
                    self._sink.give_up()

    def _work(self, asked: Follow) -> None:
        run_dir, code = Path(asked.run_dir), 1
        self._tell(Follows(os.getpid()))
        try:
            with self._logs.of_run(run_dir / "logs" / "mlflow_sink.log"):
                code = self._follow(run_dir, asked)
        except OrchestratorError as error:
            code = error.exit_code
            self._say(str(error))
        except (OSError, ValueError, TypeError) as error:
            self._say(f"{run_dir}/tracking.json: {error}")
        except Exception as error:  # noqa: BLE001 - it ends this run's thread, and is no end of the others'
            _log.error("%s", run_dir, exc_info=error)
            self._say(f"{type(error).__name__}: {error}")
        self._tell(Done(code))

    def _follow(self, run_dir: Path, asked: Follow) -> int:
        tracking, timeout_s = Tracking.read(run_dir / "tracking.json"), asked.finish_timeout_s
        know_secrets(run_dir, tracking)
        with only_writer(run_dir) as self._lock:
            self._timeout_s = timeout_s
            sink = Sink(run_dir, tracking, self._is_driver_gone, asked.earlier_bytes, self._say, self._pace)
            self._sink = sink  # from here on it is told by itself
            if self._given_up_s is not None:
                sink.give_up()
            if self._is_told_to_stop:
                sink.told_to_stop(signal.SIGTERM, None)
            _log.info("following %s", run_dir)
            if sink.finish(sink.follow(timeout_s), timeout_s):
                return 0
        self._say(sink.shortfall())
        return 1

    def _is_driver_gone(self) -> bool:
        return self._gone_s is not None

    def _say(self, text: str) -> None:
        _log.error(text)
        self._tell(Said(redact_text(text)[:_MOST_CHARACTERS]))

    def _tell(self, message: FromSink) -> None:
        if not self._is_abandoned:
            with contextlib.suppress(OSError):
                self.channel.sendall(from_sink.encode(message))
