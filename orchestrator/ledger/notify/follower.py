"""The process that tells people of a run: it reads the run's journal, and nobody waits for it.

    python -m orchestrator.ledger.notify.follower RUN_DIR

On standard input it gets one :class:`Task` as JSON. It ends when the run has ended and all is told, or
``finish_timeout_s`` later; when the driver is gone without a last word, which it tells too; or when another
driver has taken the run up meanwhile, whose own process goes on. What it has told is in
``RUN_DIR/notify.json``, so that another one, started in its place, tells nothing twice that has arrived.

Exit 0: everything has arrived. Exit 1: something has not, or cannot be read; a line on stderr says what.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import papers
from orchestrator.config.notifying import (
    EmailConfig,
    MailSecurity,
    NotifyConfig,
    WebhookConfig,
    WebhookFormat,
    learn_secrets,
)
from orchestrator.errors import OrchestratorError
from orchestrator.events import Record, RunEnded, RunResumed
from orchestrator.files import atomic_write
from orchestrator.ledger.journal import Tail
from orchestrator.ledger.notify.channels import channels_of
from orchestrator.ledger.notify.outbox import Outbox
from orchestrator.ledger.notify.words import Sender, Words
from orchestrator.redact import learn, redact_text
from orchestrator.vocabulary import Moment

NAME = "notify.json"
POLL_S = 0.25
_MOST_TASK_BYTES = 16 << 20


@dataclass(frozen=True)
class Task:
    """What the driver hands over: the part ``notify`` of the configuration, what is secret, and what words
    say of the run that its journal does not."""

    notify: dict[str, Any]
    sender: dict[str, Any]
    secrets: list[str] = field(default_factory=list)


class Follower:
    """Follows one journal; what ``earlier_seq`` and the records before it say is told already, or nobody's
    news any more."""

    def __init__(
        self, run_dir: Path, words: Words, outbox: Outbox, parent_pid: int, earlier_seq: int
    ) -> None:
        self._words, self._outbox, self._parent_pid = words, outbox, parent_pid
        self._path = run_dir / NAME
        self._earlier_seq = earlier_seq
        self._told_seq = max(earlier_seq, _told_seq(self._path))
        self._tail = Tail(run_dir / "journal.jsonl")
        self._last: Record | None = None
        self._ended = self._others = False

    def follow(self) -> None:
        """Until the run has ended, or its driver is gone."""
        while not (self._ended or self._others):
            gone = os.getppid() != self._parent_pid  # asked before reading: what it wrote is then read
            if self._read():
                self._keep()
                continue
            if gone:
                self._driver_lost()
                return
            self._keep()
            time.sleep(POLL_S)

    def finish(self, timeout_s: float) -> dict[str, int]:
        """By channel what has not arrived."""
        left = self._outbox.finish(timeout_s)
        self._keep()
        return left

    def _read(self) -> bool:
        records = self._tail.read()
        for record in records:
            # of another driver than the one that started this process, whose first record it would be
            if isinstance(record.event, RunResumed) and record.seq > self._earlier_seq + 1:
                self._others = True
                break
            word = self._words.fold(record)
            if word is not None and record.seq > self._told_seq:
                self._outbox.put(record.seq, word)
            self._ended = record.seq > self._earlier_seq and isinstance(record.event, RunEnded)
            self._last = record
        return bool(records)

    def _driver_lost(self) -> None:
        if self._last is None or self._last.seq <= self._earlier_seq:
            return  # it never began
        word = self._words.lost(self._last)
        if word is not None:
            self._outbox.put(self._last.seq, word)

    def _keep(self) -> None:
        """Remember up to where all is told; where that cannot be written, some of it may be told twice."""
        if self._last is None:
            return
        told = self._outbox.settled_before(self._last.seq)
        if told <= self._told_seq:
            return
        self._told_seq = told
        with contextlib.suppress(OSError):
            atomic_write(self._path, f'{{"format": 1, "told_seq": {told}}}\n', durable=False)


def _told_seq(path: Path) -> int:
    try:
        told = papers.read_object(path).get("told_seq")
    except (OSError, ValueError):
        return -1
    return told if isinstance(told, int) else -1


def config_of(body: dict[str, Any]) -> NotifyConfig:
    """The part of a configuration, as :func:`~orchestrator.config.load.to_container` has it."""
    webhook = {**body["webhook"], "format": WebhookFormat[body["webhook"]["format"]]}
    email = {**body["email"], "security": MailSecurity[body["email"]["security"]]}
    made: dict[str, Any] = {
        "webhook": papers.made(WebhookConfig, webhook),
        "email": papers.made(EmailConfig, email),
    }
    return papers.made(NotifyConfig, {**body, **made})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="orchestrator.ledger.notify.follower", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--parent-pid", type=int, default=os.getppid(), help="its end is the driver's")
    parser.add_argument("--earlier-seq", type=int, default=-1, help="the last record of drivers before")
    options = parser.parse_args(arguments)
    # Whoever signals a whole tree of processes ends the run, and that is to be told. This one ends soon after
    # its driver whatever happens.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        task = papers.made(Task, papers.json_of(sys.stdin.buffer.read(_MOST_TASK_BYTES)))
        notify = config_of(task.notify)
        learn(task.secrets, name="secrets")
        learn_secrets(notify)
        words = Words(frozenset(Moment(name) for name in notify.on), papers.made(Sender, task.sender))
        outbox = Outbox(channels_of(notify), notify.most_per_hour, notify.retry_for_s, say)
        follower = Follower(options.run_dir, words, outbox, options.parent_pid, options.earlier_seq)
        follower.follow()
        left = follower.finish(notify.finish_timeout_s)
    except (OrchestratorError, OSError, ValueError) as error:
        say(f"nobody is told any more: {error}")
        return 1
    for name, count in left.items():
        say(f"{name}: {count} of what was to be told did not arrive; the journal has it all")
    return 1 if left else 0


def say(message: str) -> None:
    """To the driver, which may be gone."""
    with contextlib.suppress(OSError):
        print(papers.one_line(redact_text(message)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    # Threads that wait for a server are not waited for.
    code = main()
    sys.stderr.flush()
    os._exit(code)
