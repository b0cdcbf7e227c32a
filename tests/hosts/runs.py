"""Runs of the command line on a host, and what they leave there."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.events import Event, StepDone
from orchestrator.ledger.journal import replay
from tests.hosts.hosts import WORK, Host, wait_until

# Of the main job and of every other one: two ranks on processor cores per host, and no MLflow.
COMMON = [
    "gpu=cpu", "cluster=local", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1",
    "tracking.uri=http://127.0.0.1:9",
]  # fmt: skip
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
# A script that says where it runs; without what takes seconds to start and is not looked at.
WHERE = [*COMMON, "job=script", f"job.script={SCRIPTS / 'where.py'}", "launch.zygote=false"]
TIMEOUT_S = 240


@dataclass
class Run:
    """A run that was started on a host; ``code`` and ``text`` are known once it has :meth:`ended`."""

    host: Host
    name: str
    process: subprocess.Popen[str]
    code: int = -1
    text: str = ""

    def ended(self) -> Run:
        """Wait for the end."""
        self.text, _ = self.process.communicate(timeout=TIMEOUT_S)
        self.code = self.process.returncode
        return self

    @property
    def folder(self) -> Path:
        """The run directory by a path of ours."""
        return self.host.seen_from_outside(f"{WORK}/runs/{self.name}")

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def events(self) -> list[Event]:
        journal = self.folder / "journal.jsonl"
        return [record.event for record in replay(journal)] if journal.exists() else []

    def losses(self) -> dict[int, float | None]:
        """The last loss of each step: what the model that was trained has seen."""
        return {event.step: event.loss for event in self.of(StepDone)}

    def wait_for(self, kind: type[Any], **fields: Any) -> None:
        """Until the journal has an event with these fields."""

        def there() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended before: {self.ended().text}")
            return any(all(getattr(e, n) == v for n, v in fields.items()) for e in self.of(kind))

        wait_until(there, TIMEOUT_S, f"{kind.__name__} {fields}")

    def log(self, rank: int, attempt: int = 1) -> str:
        """A rank's log in the driver's run directory."""
        return (self.folder / "logs" / f"attempt-{attempt}.rank-{rank}.log").read_text()


def start(host: Host, name: str, *overrides: str, env: dict[str, str] | None = None, cwd: str = WORK) -> Run:
    """Start a run whose driver is on this host."""
    words = ["python", "-m", "orchestrator", f"run_name={name}", f"run_root={WORK}/runs", *overrides]
    command = ["env", f"--chdir={cwd}", *words]
    process = host.popen(command, env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return Run(host, name, process)


def take_up(host: Host, name: str, *overrides: str) -> Run:
    """Go on with a run whose driver is gone."""
    command = ["python", "-m", "orchestrator", "resume", name, f"run_root={WORK}/runs", *overrides]
    process = host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return Run(host, name, process)
