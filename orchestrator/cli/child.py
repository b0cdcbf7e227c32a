"""``python -m orchestrator.cli.child FD``: what a program asked for, in a process of its own; see
``driver/child.py``.

What to do comes by standard input as JSON, and to the descriptor goes one line. Of a run it is written when
its directory is held or when it was refused; from then on all that is said goes to ``driver.log`` there.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from orchestrator.cli.show.run_view import RunOnTerminal
from orchestrator.cli.show.screen import Screen
from orchestrator.config import load, surroundings
from orchestrator.driver.handle import DRIVER_LOG
from orchestrator.driver.resume import resumable
from orchestrator.driver.run import run
from orchestrator.driver.stopping import leave_on_sigterm
from orchestrator.errors import OrchestratorError
from orchestrator.plan.plan import Plan
from orchestrator.redact import learn


class _Child(RunOnTerminal):
    """Answers once, and then writes to the log."""

    def __init__(self, path: Path, answers: int) -> None:
        super().__init__(Screen())
        self._path, self._answers = path, answers

    def planned(self, plan: Plan) -> None:
        log = os.open(self._path / DRIVER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.close(log)
        answer(self._answers, {"path": str(self._path)})
        super().planned(plan)


def answer(descriptor: int, body: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "w") as answers:
        answers.write(json.dumps(body) + "\n")


class _Notes:
    """A :class:`~orchestrator.driver.observer.Progress` that is read later."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)

    def busy(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()


def main() -> int:
    """Returns the exit code that the command line would have."""
    surroundings.settle()
    answers = int(sys.argv[1])
    os.set_inheritable(answers, False)
    payload = json.load(sys.stdin)
    learn(payload["secrets"], name="secrets")
    load.register()
    try:
        return _cluster(payload, answers) if "cluster" in payload else _run(payload, answers)
    except OrchestratorError as error:
        try:
            answer(answers, {"error": type(error).__name__, "message": str(error)})
        except OSError:  # it has been answered: the log is where it is looked for
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run(payload: dict[str, Any], answers: int) -> int:
    if "resume" in payload:
        config, found = resumable(Path(payload["resume"]))
    else:
        config, found = load.from_container(payload["config"]), None
    path = Path(config.run_dir or Path(config.run_root) / str(config.run_name)).resolve()
    return run(config, _Child(path, answers), found, payload["trust"])


def _cluster(payload: dict[str, Any], answers: int) -> int:
    from orchestrator.cluster.warm import record
    from orchestrator.driver.warm_cluster import down, status, up

    leave_on_sigterm()
    config, notes = load.from_container(payload["config"]), _Notes()
    body: dict[str, Any] = {"notes": notes.lines}
    match payload["cluster"]:
        case "up":
            before = record.find()
            cluster, body["seen"] = up(config, notes)
            body["began"] = before != cluster
        case "status":
            body["seen"] = status(config)
        case "down":
            down(notes, payload["force"])
    answer(answers, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
