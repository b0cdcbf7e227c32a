"""What the driver does for those who are to be told of a run: it has a process that reads the journal."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.config import load
from orchestrator.config.notifying import is_on
from orchestrator.config.schema import Config
from orchestrator.driver.observer import Progress
from orchestrator.events import Record
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.notify.follower import Task
from orchestrator.ledger.notify.words import Sender
from orchestrator.redact import known
from orchestrator.supervise.loop import StopRequest
from orchestrator.users import user_name

# Between two looks at the process; it is started so often in its place, and then no more.
_LOOK_S, _MOST_STARTS = 1.0, 5
_POLL_S = 0.05
# Beyond its own deadline.
_EXIT_S = 5.0


class Notifier:
    """The process that tells people, kept going while the run lasts; nothing where nobody is to be told."""

    def __init__(self, config: Config, run_dir: Path, go_on: str, earlier_seq: int) -> None:
        self._config, self._run_dir, self._go_on, self._earlier_seq = config, run_dir, go_on, earlier_seq
        self._say: Callable[[str], None] = lambda text: None
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._starts = 0
        self._next_look_s = 0.0

    def begin(self, say: Callable[[str], None]) -> None:
        """From here on; ``say`` puts a line before the user."""
        self._say = say
        if is_on(self._config.notify):
            self._start()

    def observe(self, _record: Record, _bill: Bill) -> None:
        """See, now and then, whether the process is there still."""
        if self._process is None or (now_s := time.monotonic()) < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_S
        status = self._process.poll()
        if status is not None and self._starts < _MOST_STARTS:
            self._say(f"notify: its process ended with status {status}; another is started")
            self._start()

    def finish(self, stop: StopRequest, progress: Progress) -> None:
        """Wait until all is told, for `notify.finish_timeout_s` at most; a Ctrl-C meanwhile leaves the
        process to go on by itself."""
        process = self._process
        if process is None:
            return
        asked = stop.level
        deadline_s = time.monotonic() + self._config.notify.finish_timeout_s + _EXIT_S
        with progress.busy("telling those who are to be told"):
            while process.poll() is None and stop.level == asked and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
        if process.poll() is None and stop.level == asked:
            process.kill()
            process.wait()
        if self._listener is not None and process.poll() is not None:
            self._listener.join(_EXIT_S)

    def _start(self) -> None:
        sender = Sender(str(self._run_dir), platform.node(), user_name(), self._go_on)
        notify = load.to_container(self._config)["notify"]
        task = Task(notify, dataclasses.asdict(sender), known())
        words = [sys.executable, "-m", "orchestrator.ledger.notify.follower", str(self._run_dir)]
        words += [f"--parent-pid={os.getpid()}", f"--earlier-seq={self._earlier_seq}"]
        self._starts += 1
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # so that Ctrl-C does not reach it
            )
        except OSError as error:
            self._say(f"notify: its process cannot be started ({error.strerror or error}); nobody is told")
            return
        self._process = process
        self._listener = threading.Thread(
            target=self._talk, args=(process, json.dumps(dataclasses.asdict(task))), daemon=True
        )
        self._listener.start()

    def _talk(self, process: subprocess.Popen[str], task: str) -> None:
        """Hand the task over, and pass on what is said about it."""
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with process.stdin:
                process.stdin.write(task)
        except OSError:
            pass  # it has ended, and says why
        with process.stderr:
            for line in process.stderr:
                self._say(f"notify: {line.strip()}")
