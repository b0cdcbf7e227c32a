"""Runs of the command line in a folder of the tests' own, with the faults that strike them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.events import Event, Record, StepDone
from orchestrator.ledger.journal import replay
from tests.faults.faults import Fault
from tests.support.paced import PACE_S, STRUCK, paced
from tests.support.processes import below, end, running, title

MARKS = [
    pytest.mark.real,
    # the other method ends pytest itself and leaves clusters behind
    pytest.mark.timeout(900, method="signal"),
]
STEPS, EVERY = 24, 6
# The embedded default's job on two processor cores whatever the machine has, short, and without what is not
# looked at. The model is the main job's, since it is its files that are written; the tokens are few.
COMMON = [
    "gpu=cpu", "cluster=local", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1",
    "launch.dashboard=false", f"job.steps={STEPS}", "job.micro_batch=1", "model.seq_len=64",
    "job.args.val_every=0", "job.args.sample_tokens=0",
]  # fmt: skip
UNTRACKED = "tracking.uri=http://127.0.0.1:9"
TIMEOUT_S = 300
WATCH_S = 0.2


class Run:
    """One process of the command line that drives a run, from its start or from where another driver left
    it."""

    def __init__(
        self, user: User, name: str, words: list[str], faults: list[Fault], kept: WarmCluster | None
    ) -> None:
        self.name, self.faults = name, faults
        self.folder = user.folder / "runs" / name
        self._hurry = _hurry(user, name)
        self._hurry.unlink(missing_ok=True)
        self.segments = set(os.listdir("/dev/shm"))
        self.most_ranks = 0
        self.code, self.text = -1, ""
        self._kept = kept
        self._seen: dict[psutil.Process, str] = {}
        self._read: tuple[int, list[Record]] = (0, [])
        self._lock = threading.Lock()
        self.before = len(self.records())
        self._output = user.folder / f"{name}.{time.monotonic_ns()}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *words],
                cwd=user.folder, env=user.environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.driver = psutil.Process(self.process.pid)
        self._outside = [fault for fault in faults if not fault.within]
        self._threads = [
            threading.Thread(target=self._strike, args=(fault,), daemon=True) for fault in self._outside
        ]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        for thread in self._threads:
            thread.start()

    def ended(self, timeout_s: float = TIMEOUT_S) -> Run:
        """Wait for the end; every fault must have struck by then."""
        try:
            self.code = self.process.wait(timeout_s)
        finally:
            self.text = self._output.read_text()
            if self.process.poll() is None:
                self.kill()
                print(self.text)
        for thread in self._threads:
            thread.join(10)
        for fault in self.faults:
            assert fault.struck or fault.within, f"did not strike: {fault}\n{self.text}"
            assert not fault.within or self.marks(), f"did not strike: {fault}\n{self.text}"
        return self

    def hurry(self) -> None:
        """From here on steps take the time that they take: nothing waits for one any more."""
        self._hurry.touch()

    def hold_back(self) -> None:
        """From here on its steps are held back again."""
        self._hurry.unlink(missing_ok=True)

    def marks(self) -> list[Path]:
        """One for every strike of a fault from within."""
        return sorted(self.folder.parent.glob(f"{self.name}.fault.json.struck-*"))

    def alive(self) -> bool:
        return self.process.poll() is None

    def records(self) -> list[Record]:
        """All that the journal has by now."""
        journal = self.folder / "journal.jsonl"
        if not journal.exists():
            return []
        with self._lock:
            size = journal.stat().st_size
            if size != self._read[0]:
                self._read = (size, list(replay(journal)))
            return self._read[1]

    def news(self) -> list[Record]:
        """What this driver has told."""
        return self.records()[self.before :]

    def events(self) -> list[Event]:
        return [record.event for record in self.records()]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def losses(self) -> dict[int, float | None]:
        """The last loss of each step: what the model that was trained has seen."""
        return {event.step: event.loss for event in self.of(StepDone)}

    def wait_for(self, kind: type[Any], timeout_s: float = TIMEOUT_S, **fields: Any) -> None:
        """Until this driver has told of such an event."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            new = [one.event for one in self.news()]
            if any(isinstance(e, kind) and all(getattr(e, n) == v for n, v in fields.items()) for e in new):
                return
            assert self.alive(), f"{self.name} ended before {kind.__name__}: {self._output.read_text()}"
            assert time.monotonic() < deadline_s, (
                f"{self.name}: no {kind.__name__} {fields} within {timeout_s:g} s"
            )
            time.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        """To the driver alone."""
        self.process.send_signal(number)

    def family(self) -> list[psutil.Process]:
        """What runs below the driver, and of the run below the head of a kept cluster."""
        head = self._kept.head() if self._kept else None
        own, kept = below(self.driver, head)
        return own + [process for process in kept if self._is_ours(process)]

    def left(self) -> list[str]:
        """Its processes that are still there, by what they were called when they were seen last."""
        return [f"{process.pid} {called}" for process, called in self._seen.items() if running(process)]

    def kill(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(psutil.Error):
            self._look()
        end(self.driver, *self._seen)
        self.process.wait()

    def _strike(self, fault: Fault) -> None:
        fault.strike(self)
        if all(one.struck and not one.keeps_pace for one in self._outside):
            self.hurry()

    def _watch(self) -> None:
        while self.alive():
            self._look()
            time.sleep(WATCH_S)

    def _look(self) -> None:
        titles = {process: title(process) for process in self.family()}
        self._seen |= {process: called for process, called in titles.items() if called}
        ranks = [called for called in titles.values() if called.startswith("orchestrator rank ")]
        self.most_ranks = max([self.most_ranks, *map(ranks.count, ranks)])

    def _is_ours(self, process: psutil.Process) -> bool:
        called = title(process)
        return called.startswith("ray::NodeAgent") or called.endswith(f" {self.name}")


@dataclass
class User:
    """A home directory, a working directory and an environment in which nothing is set up.

    But for a copy of an MLflow ``database``, which takes less than making one.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    database: Path | None = None
    kept: WarmCluster | None = None
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("home", "runs"):
            (self.folder / name).mkdir(exist_ok=True)
        if self.database is not None:
            shutil.copy(self.database, self.folder / "runs" / "mlflow.db")
        ours = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST", "RAY_", "MLFLOW", "XDG_"))}
        own = {
            "HOME": str(self.folder / "home"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "COLUMNS": "140",
        }
        self.environment = {**ours, **own, **self.environment}

    def start(self, name: str, *about: str | Fault, tracked: bool = False, pace_s: float = PACE_S) -> Run:
        """A run with these overrides and faults; on the kept cluster where there is one.

        Steps take ``pace_s`` until all faults from outside have struck, or :meth:`Run.hurry` is called.
        """
        faults = [one for one in about if isinstance(one, Fault)]
        words = [f"run_name={name}", *COMMON, f"job.args.checkpoint_every={EVERY}"]
        struck_from_within = any(fault.within for fault in faults)
        words += [f"job.script={STRUCK}"] if struck_from_within else paced(_hurry(self, name), pace_s)
        words += [one for one in about if isinstance(one, str)]
        words += [] if tracked else [UNTRACKED]
        words += [] if self.kept else ["ray_address=local"]
        for fault in faults:
            if fault.within:
                told = self.folder / "runs" / f"{name}.fault.json"
                fault.write(told)
                words += [f"+job.args.fault={told}"]
        return self._begin(name, words, faults)

    def resume(self, name: str, *faults: Fault, hurry: bool = True) -> Run:
        """Take a run up again; where nothing strikes it any more its steps are not held back, unless asked to
        be."""
        run = self._begin(name, ["resume", name], list(faults))
        if hurry and not faults:
            run.hurry()
        return run

    def command(self, *words: str, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Any verb, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    @contextlib.contextmanager
    def keeping(self, *settings: str) -> Iterator[Self]:
        """With a cluster that `up` keeps meanwhile, to which its runs attach by themselves."""
        up = self.command("up", *settings)
        try:
            assert up.returncode == 0, up.stdout + up.stderr
            record = Path(self.environment["XDG_STATE_HOME"], "orchestrator", "cluster.json")
            self.kept = WarmCluster(**json.loads(record.read_text()))
            yield self
        finally:
            self.close()
            down = self.command("down", "--force")
            assert down.returncode == 0, down.stdout + down.stderr

    def close(self, keep: int = 0) -> None:
        """Nothing that was started outlives the tests, also when they fail; ``keep`` of the first do."""
        for run in self.runs[keep:]:
            run.kill()

    def _begin(self, name: str, words: list[str], faults: list[Fault]) -> Run:
        self.runs.append(Run(self, name, words, faults, self.kept))
        return self.runs[-1]


def _hurry(user: User, name: str) -> Path:
    """Once this file is there, the run's steps are not held back any more."""
    return user.folder / "runs" / f"{name}.hurry"
