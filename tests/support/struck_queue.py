"""A queue on a Ray of this machine whose daemon and drivers are killed at random while it works."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.dispatch.driver_files import DriverFiles
from orchestrator.dispatch.store import Store
from orchestrator.events import RunEnded, Status, StepDone
from orchestrator.fleet.jobs import ENDED, JobState
from orchestrator.ledger.journal import replay
from tests.support.processes import end

FLEET = """
pools:
  cpus: {nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu, cluster.cpu_threads_per_rank=1]}
policy: {min_run_s: 1, min_run_prices: 0}
"""
LOOK_S = 0.1


@dataclass
class StruckQueue:
    """``folder`` is where jobs are submitted, ``environment`` of a user whose cluster is up."""

    folder: Path
    environment: dict[str, str]
    seed: int
    kills: list[str] = field(default_factory=list)
    _daemon: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.runs = self.folder / "runs"
        self.runs.mkdir(exist_ok=True)
        (self.runs / "fleet.yaml").write_text(FLEET)
        self.dice = random.Random(self.seed)
        self.store = Store(self.runs / "fleet")
        self._log = self.folder / "daemon.txt"

    def submit(self, key: str, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "submit", f"key={key}", *words], cwd=self.folder,
            env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"{key} is in the queue" in done.stdout

    def begin(self) -> None:
        """A daemon leads from here on."""
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "dispatch"], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def strike(self, kills: int, within_s: float) -> None:
        """Kill daemon or driver so often, each time after the queue has got on, and wait for the end."""
        deadline_s, steps = time.monotonic() + within_s, -1
        while not self.over():
            assert time.monotonic() < deadline_s, f"seed {self.seed}: {self.told()}"
            assert self._daemon is not None
            if self._daemon.poll() is not None:
                self.begin()
            now = self.steps()
            if len(self.kills) < kills and now > steps:
                steps = now
                self._kill()
            time.sleep(LOOK_S)
        assert len(self.kills) >= kills, f"it was over after {self.kills}"

    def close(self) -> None:
        """End the daemon and all drivers."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        for driver in self._drivers():
            end(driver)
        self.store.close()

    def over(self) -> bool:
        return all(entry.job.state in ENDED for entry in self.store.read().live())

    def states(self) -> dict[str, JobState]:
        return {entry.key: entry.job.state for entry in self.store.newest_ended(1000)}

    def steps(self) -> int:
        """That all runs have done, those done again included."""
        return sum(len(self.losses(path.parent)) for path in self.runs.glob("*/journal.jsonl"))

    def losses(self, run: Path) -> dict[int, float | None]:
        """The last of each step: what the model that was trained has seen."""
        journal = run / "journal.jsonl"
        return {
            record.event.step: record.event.loss
            for record in replay(journal)
            if isinstance(record.event, StepDone)
        }

    def times_finished(self, run: Path) -> int:
        return sum(
            isinstance(record.event, RunEnded) and record.event.status is Status.FINISHED
            for record in replay(run / "journal.jsonl")
        )

    def told(self) -> str:
        """All that helps to see why it is not over."""
        entries = {key: entry.job.state.value for key, entry in self.store.read().jobs.items()}
        logs = [path.read_text()[-2000:] for path in (self.runs / "fleet" / "logs").glob("*.log")]
        return json.dumps({"jobs": entries, "kills": self.kills}) + "\n".join([self._log.read_text(), *logs])

    def _kill(self) -> None:
        drivers = self._drivers()
        victim = self.dice.choice(["daemon", *(["driver"] if drivers else [])])
        if victim == "daemon":
            assert self._daemon is not None
            self._daemon.kill()
            self._daemon.wait()
        else:
            end(self.dice.choice(drivers))
        self.kills.append(victim)

    def _drivers(self) -> list[psutil.Process]:
        folder = self.runs / "fleet" / "drivers"
        names = sorted(path.stem for path in folder.glob("*.lock")) if folder.is_dir() else []
        holders = [DriverFiles(self.runs / "fleet", name).held()[1] for name in names]
        found = [holder.process() for holder in holders if holder is not None]
        return [process for process in found if process is not None and process.pid != os.getpid()]
