"""``python -m orchestrator.cli.child FD``: the driver of a run that a program started, see
``driver/handle.py``.

What to run comes by standard input as JSON; to the descriptor goes one line, when the run's directory is held
or when it was refused. From then on all that is said goes to ``driver.log`` in that directory.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from orchestrator.cli.show.run_view import RunOnTerminal
from orchestrator.cli.show.screen import Screen
from orchestrator.config import load, surroundings
from orchestrator.driver.handle import DRIVER_LOG
from orchestrator.driver.resume import resumable
from orchestrator.driver.run import run
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


def answer(descriptor: int, said: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "w") as answers:
        answers.write(json.dumps(said) + "\n")


def main() -> int:
    """Returns the run's exit code."""
    surroundings.settle()
    answers = int(sys.argv[1])
    os.set_inheritable(answers, False)
    told = json.load(sys.stdin)
    learn(told["secrets"], name="secrets")
    load.register()
    try:
        if "resume" in told:
            config, found = resumable(Path(told["resume"]))
        else:
            config, found = load.from_container(told["config"]), None
        path = Path(config.run_dir or Path(config.run_root) / str(config.run_name)).resolve()
        return run(config, _Child(path, answers), found, told["trust"])
    except OrchestratorError as error:
        try:
            answer(answers, {"error": type(error).__name__, "message": str(error)})
        except OSError:  # it has been answered: the log is where it is looked for
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
