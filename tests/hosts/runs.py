"""Runs of the command line on a host, and what they leave there."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from orchestrator.events import Event, Record, StepDone
from orchestrator.ledger.journal import replay
from tests.hosts.hosts import SHARED, WORK, Host, wait_until
from tests.support.folders import SCRIPTS
from tests.support.paced import PACE_S, paced
from tests.support.processes import running, title

# Of the main job and of every other one: two ranks on processor cores per host, and no MLflow.
COMMON = [
    "gpu=cpu", "cluster=local", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1",
    "tracking.uri=http://127.0.0.1:9",
]  # fmt: skip
# A script that says where it runs; without what takes seconds to start and is not looked at.
WHERE = [*COMMON, "job=script", f"job.script={SCRIPTS / 'where.py'}", "launch.zygote=false"]
# A disk of this machine is everybody's, and is full of other suites' work.
CALM = ["check.least_disk_bytes_per_s=1", "check.least_disk_room_bytes=0", "check.least_shm_room_bytes=0"]
TIMEOUT_S = 240
# The main job, small, with its steps held back.
STEPS, EVERY = 40, 5
TRAINS = [
    *COMMON, "job=tiny_gpt", f"job.steps={STEPS}", "job.global_batch=12", "job.micro_batch=1",
    f"job.args.checkpoint_every={EVERY}", "job.args.val_every=0", "job.args.sample_tokens=0",
    "recovery.wait_for_node_s=60", "model.layers=2", "model.seq_len=32",
]  # fmt: skip


@dataclass
class Run:
    """A run that was started on a host; ``code`` and ``text`` are known once it has :meth:`ended`."""

    host: Host
    name: str
    process: subprocess.Popen[str]
    output: IO[str]
    code: int = -1
    text: str = ""

    def ended(self) -> Run:
        """Wait for the end."""
        self.code = self.process.wait(TIMEOUT_S)
        if not self.output.closed:
            with self.output:
                self.output.seek(0)
                self.text = self.output.read()
        return self

    @property
    def folder(self) -> Path:
        """The run directory by a path of ours."""
        return self.host.seen_from_outside(f"{WORK}/runs/{self.name}")

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def events(self) -> list[Event]:
        return [record.event for record in self.records()]

    def records(self) -> list[Record]:
        journal = self.folder / "journal.jsonl"
        return list(replay(journal)) if journal.exists() else []

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
    return _begun(host, name, command, env)


def take_up(host: Host, name: str, *overrides: str) -> Run:
    """Go on with a run whose driver is gone."""
    return _begun(
        host, name, ["python", "-m", "orchestrator", "resume", name, f"run_root={WORK}/runs", *overrides]
    )


def train(desk: Host, name: str, nodes: int, *more: str, pace_s: float = PACE_S) -> Run:
    """A rank on each of two hosts, or two on each of three."""
    size = [
        f"cluster.nodes={nodes}",
        f"cluster.gpus_per_node={nodes - 1}",
        *paced(f"{SHARED}/{name}.hurry", pace_s),
    ]
    return start(desk, name, *TRAINS, *size, f"ray_address={desk.gcs_address}", *more)


def hurry(desk: Host, run: Run) -> None:
    """From here on its steps take the time that they take."""
    desk.write(f"{SHARED}/{run.name}.hurry", "")


def processes_of(host: Host, words: str) -> list[psutil.Process]:
    """Processes of a host by their command line."""
    found = []
    for process in host.processes():
        with suppress(psutil.NoSuchProcess):
            if words in title(process):
                found.append(process)
    return found


def ended(process: psutil.Process) -> bool:
    """Also one that nobody buries, as may be in such a host."""
    return not running(process)


def _begun(host: Host, name: str, command: list[str], env: dict[str, str] | None = None) -> Run:
    """What it says goes into a file: nobody reads it before the end, and a pipe would hold it back."""
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by the run's end
    return Run(
        host, name, host.popen(command, env, stdout=output, stderr=subprocess.STDOUT, text=True), output
    )
