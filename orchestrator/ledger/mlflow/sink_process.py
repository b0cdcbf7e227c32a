"""Sees to it that a run has a process that tells MLflow, from its start to its end, without the run waiting
for it.

MLflow may not answer yet when the run begins, and the process may be killed. Neither ends the recording:
MLflow is asked again, the process is started again, later and later, and what changes is said. The asking is
done here and not by the process, which takes seconds of a processor just to be there.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Protocol

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
# A process that has lived this long is no longer one that ends whenever it is started.
WELL_AFTER_S = 60.0
LOOK_S = 0.1
CLOSE_S = 1.0  # a check may take longer; nothing follows from it any more
# Instead of an exit code: it is not there any more, and nobody knows how it ended.
GONE = -1000
_TOLD = "the journal keeps everything"


class Process(Protocol):
    """What is needed of ``subprocess.Popen``."""

    pid: int

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...


class SinkSupervisor:
    """``start`` starts the process, ``check`` says why MLflow cannot be written to, and may take seconds for
    it; it is told when it is asked for the last time, since no later look makes up for an answer that was
    slow then.

    :meth:`look` decides; a thread calls it from :meth:`begin` to :meth:`close`. It is all that touches the
    process.
    """

    def __init__(
        self, start: Callable[[], Process], check: Callable[[bool], str | None], problem: str | None = None
    ) -> None:
        self._start, self._check = start, check
        self._say: Callable[[str], None] = lambda text: None
        self._problem = problem  # as the user knows it
        self._process: Process | None = None
        self._begun_s = self._next_try_s = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._last_words = ""
        self._ending = False
        self._over = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.complete = self.ever_started = False

    def begin(self, say: Callable[[str], None]) -> None:
        """Start the process at once where MLflow answers, and look after it from now on."""
        self._say = say
        if self._problem is None:
            self._begin_process(time.monotonic())
        else:
            self._back_off(time.monotonic())
        self._thread = threading.Thread(target=self._keep, name="sink keeper", daemon=True)
        self._thread.start()

    def run_ended(self) -> None:
        """The run's end is on record: an end of the process in good order is the last one, and nothing is put
        off."""
        if not self._ending:
            self._ending = True
            self._next_try_s, self._backoff_s = 0.0, FIRST_BACKOFF_S

    def wait(self, given_up: Callable[[], bool]) -> bool:
        """Until MLflow has everything (true), or has not in the end."""
        self.run_ended()
        while not self._over.wait(LOOK_S):
            if given_up():
                break
        return self.complete

    def close(self) -> Process | None:
        """Look no more; returns the process if there is one still."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        return self._process

    def look(self, now_s: float) -> None:
        """See to what has happened since the last look."""
        if self._over.is_set() or self._closed.is_set():
            return
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._process_ended(code, now_s)
            return
        if now_s < self._next_try_s:
            return
        last = self._ending
        problem = self._check(last)
        if self._closed.is_set():
            return
        if problem:
            self._unanswered(problem, now_s, last)
        else:
            self._begin_process(now_s)

    def _keep(self) -> None:
        while not self._closed.wait(LOOK_S):
            self.look(time.monotonic())

    def _unanswered(self, problem: str, now_s: float, last: bool) -> None:
        if last:
            self._over.set()  # a run that has ended does not wait for a server that is away
        elif self._problem is None:
            self._say(f"MLflow: {problem}; it is tried again, {_TOLD}")
        self._problem = problem
        if last or not self._ending:  # else the run has ended meanwhile, and the last time is at once
            self._back_off(now_s)

    def _begin_process(self, now_s: float) -> None:
        try:
            self._process = self._start()
        except OSError as error:
            self._say(
                f"MLflow: its process cannot be started ({error.strerror or error}); tried again, {_TOLD}"
            )
            self._back_off(now_s)
            return
        if self._problem is not None:
            self._say("MLflow answers now: the run is recorded, from its start")
        self._problem, self._begun_s, self.ever_started = None, now_s, True

    def _process_ended(self, code: int, now_s: float) -> None:
        self._process = None
        if self._ending and code == 0:
            self.complete = True
        if self._ending and code >= 0:
            self._over.set()  # it has said why, after trying for as long as it may
            return
        if now_s - self._begun_s > WELL_AFTER_S:
            self._backoff_s = FIRST_BACKOFF_S
        wait_s = self._backoff_s
        self._back_off(now_s)
        how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with status {code}"
        how = "is gone" if code == GONE else how
        if self._backoff_s < MAX_BACKOFF_S or how != self._last_words:
            self._say(f"MLflow: the process that tells it {how}; another is started in {wait_s:g} s, {_TOLD}")
        self._last_words = how

    def _back_off(self, now_s: float) -> None:
        self._next_try_s = now_s + self._backoff_s
        self._backoff_s = min(MAX_BACKOFF_S, 2 * self._backoff_s)


def pass_on(process: subprocess.Popen[str], say: Callable[[str], None]) -> threading.Thread:
    """Say what a process says on stderr, until it ends."""

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                say(f"MLflow: {line.strip()}")

    thread = threading.Thread(target=read, name="sink's words", daemon=True)
    thread.start()
    return thread


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
