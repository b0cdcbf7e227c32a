"""A queue whose daemon, drivers and their host are killed at random while it works."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.dispatch.driver_files import Holder
from orchestrator.dispatch.facts import Fact, StopMeant
from orchestrator.dispatch.locks import is_held
from orchestrator.dispatch.replay import replay_of
from orchestrator.dispatch.store import Store
from orchestrator.events import AttemptStarted, Record, RunEnded, SnapshotCommitted, Status, StepDone
from orchestrator.fleet.decisions import StopCause
from orchestrator.fleet.jobs import ENDED, JobState
from orchestrator.ledger.journal import replay
from orchestrator.processes import is_same
from tests.support.processes import end, running, title

# What others pay for a stop is small, so that jobs of the better class stop the others.
FLEET = """
pools:
  cpus: {{nodes: {nodes}, gpus_per_node: 2, resource: CPU, words: [gpu=cpu, cluster.cpu_threads_per_rank=1]}}
classes:
  batch: {{usd_per_hour: 1, default: true}}
  product: {{usd_per_hour: 100000}}
policy: {{min_run_s: 1, min_run_prices: 0}}
"""
LOOK_S = 0.1


@dataclass
class StruckQueue:
    """``folder`` is where jobs are submitted, ``environment`` of a user whose cluster is up, ``fleet`` a
    template of who shares what."""

    folder: Path
    environment: dict[str, str]
    seed: int
    nodes: int = 1
    fleet: str = FLEET
    kills: list[str] = field(default_factory=list)
    # After so many kills, or once nothing else is to do: a job's key and words.
    later: list[tuple[int, str, Sequence[str]]] = field(default_factory=list)
    _daemon: subprocess.Popen[bytes] | None = None
    _read: dict[str, tuple[int, list[Record]]] = field(default_factory=dict)  # by run, at a size

    def __post_init__(self) -> None:
        self.runs = self.folder / "runs"
        self.runs.mkdir(exist_ok=True)
        (self.runs / "fleet.yaml").write_text(self.fleet.format(nodes=self.nodes))
        self.dice = random.Random(self.seed)
        self.store = Store(self.runs / "fleet")
        self._log = self.folder / "daemon.txt"

    def submit(self, key: str, *words: str) -> None:
        code, said = self.command("submit", f"key={key}", *words)
        assert code == 0, said
        assert f"{key} is in the queue" in said

    def command(self, *words: str) -> tuple[int, str]:
        """Its exit code, and all that it says."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def begin(self) -> None:
        """A daemon leads from here on."""
        with self._log.open("ab") as log:
            self._daemon = self._started(log.fileno())

    def strike(self, kills: int, within_s: float) -> None:
        """Kill something so often, each time after the queue has got on, and wait for the end; the later
        jobs come meanwhile."""
        deadline_s, steps = time.monotonic() + within_s, -1
        with ThreadPoolExecutor(1) as somebody:
            comes: Future[None] | None = None
            while self.later or comes is not None or not self.over():
                assert time.monotonic() < deadline_s, f"seed {self.seed}: {self.told()}"
                assert self._daemon is not None
                assert not (held := self.held()), f"seed {self.seed}: {held}\n{self.told()}"
                if self._daemon.poll() is not None:
                    self.begin()
                if comes is not None and comes.done():
                    comes = comes.result()
                if comes is None and self.later and (len(self.kills) >= self.later[0][0] or self.over()):
                    _, key, words = self.later.pop(0)
                    comes = somebody.submit(self.submit, key, *words)
                now = self.steps()
                if len(self.kills) < kills and now > steps:
                    steps = now
                    self._kill()
                time.sleep(LOOK_S)
        assert len(self.kills) >= kills, f"it was over after {self.kills}"

    def say(self, fact: Fact) -> None:
        """As a verb of the queue does."""
        self.store.write("ada", time.time(), lambda _books: [fact])

    def wait_for(self, what: Callable[[], bool], within_s: float) -> None:
        deadline_s = time.monotonic() + within_s
        while not what():
            assert time.monotonic() < deadline_s, f"it never came true: {self.told()}"
            time.sleep(LOOK_S)

    def close(self) -> None:
        """End the daemon and all drivers."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        end(*self._drivers())
        self.store.close()

    def over(self) -> bool:
        return all(entry.job.state in ENDED for entry in self.store.read().live())

    def held(self) -> dict[str, str]:
        """Who waits for somebody to look, and why: nobody is there to."""
        live = self.store.read().live()
        return {one.key: one.job.held_because for one in live if one.job.state is JobState.HELD}

    def states(self) -> dict[str, JobState]:
        return {entry.key: entry.job.state for entry in self.store.newest_ended(1000)}

    def steps(self) -> int:
        """That all runs have done, those done again included."""
        return sum(len(self.losses(path.parent.name)) for path in self.runs.glob("*/journal.jsonl"))

    def losses(self, key: str) -> dict[int, float | None]:
        """The last of each step: what the model that was trained has seen."""
        return {
            record.event.step: record.event.loss
            for record in self.records(key)
            if isinstance(record.event, StepDone)
        }

    def saved(self, key: str) -> bool:
        """Whether a checkpoint of the run was committed."""
        return any(isinstance(record.event, SnapshotCommitted) for record in self.records(key))

    def records(self, key: str) -> list[Record]:
        """None of a run that has not begun."""
        journal = self.runs / key / "journal.jsonl"
        size = journal.stat().st_size if journal.exists() else 0
        if self._read.get(key, (0, []))[0] != size:  # else the looks take more than the runs
            self._read[key] = size, list(replay(journal))
        return self._read.get(key, (0, []))[1]

    def check(self, kinds: Sequence[Sequence[str]], steps: int) -> None:
        """All jobs have finished once; those of a kind have trained the same; no attempt began before the
        newest checkpoint that was committed; the books are what their facts make of them, and each decision
        comes out the same again. Nobody was asked to leave because a daemon did not know the nodes yet."""
        keys = [key for kind in kinds for key in kind]
        assert self.states() == dict.fromkeys(keys, JobState.FINISHED), self.told()
        assert {key: self._times_finished(key) for key in keys} == dict.fromkeys(keys, 1)
        for kind in kinds:
            losses = {key: self.losses(key) for key in kind}
            assert all(sorted(one) == list(range(1, steps + 1)) for one in losses.values()), losses
            assert all(one == losses[kind[0]] for one in losses.values()), losses
        assert [said for key in keys for said in self._steps_lost(key)] == []
        rows = self.store.rows()
        self.store.rebuild()
        assert self.store.rows() == rows
        if "head" not in self.kills:
            stops = [fact for _, _, fact in self.store.facts() if isinstance(fact, StopMeant)]
            assert not [stop for stop in stops if stop.cause is StopCause.NODE], "all nodes were there"
        again = replay_of(self.store.facts())
        assert (again.decisions > 0, again.differing) == (True, [])

    def _times_finished(self, key: str) -> int:
        return sum(
            isinstance(record.event, RunEnded) and record.event.status is Status.FINISHED
            for record in self.records(key)
        )

    def _steps_lost(self, key: str) -> list[str]:
        """Attempts that began before what had been committed."""
        committed, found = 0, []
        for record in self.records(key):
            match record.event:
                case SnapshotCommitted():
                    committed = max(committed, record.event.step)
                case AttemptStarted() if (record.event.restore_step or 0) < committed:
                    found.append(f"{key}: {record.event} after step {committed} was committed")
        return found

    def told(self) -> str:
        """All that helps to see why it is not over."""
        entries = {key: entry.job.state.value for key, entry in self.store.read().jobs.items()}
        logs = [path.read_text()[-2000:] for path in (self.runs / "fleet" / "logs").glob("*.log")]
        return json.dumps({"jobs": entries, "kills": self.kills}) + "\n".join([self._log.read_text(), *logs])

    def _kill(self) -> None:
        """Whatever of all that is there."""
        hosts, drivers = self._driver_hosts(), self._drivers()
        victim = self.dice.choice(["daemon", "driver", "driver", "host"])
        if victim == "driver" and drivers:
            end(self.dice.choice(drivers))
        elif victim == "host" and hosts:
            end(*hosts)
        else:
            victim = "daemon"
            assert self._daemon is not None
            self._daemon.kill()
            self._daemon.wait()
        self.kills.append(victim)

    def _started(self, log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "dispatch"], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip

    def _process(self, pid: int) -> psutil.Process | None:
        """The process with a number, as those of the queue see it."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid)
        return None

    def _drivers(self) -> list[psutil.Process]:
        found = []
        for path in sorted((self.runs / "fleet" / "drivers").glob("*.lock")):
            with suppress(OSError, ValueError, TypeError), path.open("rb") as lock:
                if is_held(lock):
                    holder = Holder(**json.loads(lock.read()))
                    process = self._process(holder.pid)
                    if process is not None and is_same(process.pid, holder.start):
                        found.append(process)
        return [process for process in found if process.pid != os.getpid()]

    def _driver_hosts(self) -> list[psutil.Process]:
        assert self._daemon is not None
        below: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self._daemon.pid).children(recursive=True)
        return [each for each in below if "orchestrator.cli.driver_host" in title(each) and running(each)]
