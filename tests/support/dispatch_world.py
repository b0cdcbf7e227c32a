"""A cluster with drivers that follow a script, for the queue's daemon: time is a number, and whoever plays
with it strikes drivers and daemons down as the dice fall."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.daemon import Daemon
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, Submitted, Tally
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.seen import DriverEnd, Presence, RunSeen, SeenNode
from orchestrator.dispatch.store import Choose, Store
from orchestrator.fleet.jobs import JobSpec, JobState, PoolPlan
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from tests.support.opened_stores import until_the_end

GPUS_PER_NODE = 8


class Crash(BaseException):
    """A daemon is killed here."""


@dataclass
class Dice:
    """Where daemons are killed: at each place they pass, with these odds."""

    random: random.Random
    odds: float = 0.0
    crashes: int = 0

    def maybe(self) -> None:
        if self.random.random() < self.odds:
            self.crashes += 1
            raise Crash


class MortalStore(Store):
    """A store whose process may be killed before, within and after each write."""

    def __init__(self, folder: Path, dice: Dice) -> None:
        self.dice = dice
        super().__init__(folder)

    def write(self, by: str, at: float, choose: Choose, epoch: int | None = None) -> Books:
        def mortal(books: Books) -> Sequence[Fact]:
            facts = choose(books)
            self.dice.maybe()
            return facts

        self.dice.maybe()
        books = super().write(by, at, mortal, epoch)
        self.dice.maybe()
        return books


@dataclass
class FakeRun:
    """A run and its driver. Steps that were not saved are gone with a driver that is killed."""

    name: str
    steps: int
    every: int
    step: int = 0
    saved: int = 0
    alive: int | None = None  # the epoch of its driver
    on_the_way: list[tuple[int, int]] = field(default_factory=list)  # epoch, ticks until it begins
    asked: bool = False
    leaves_in: int = 2
    lingers: int | None = None  # ticks in which its driver has left its nodes and still is there; None: drawn
    left: DriverEnd | None = None  # with which that one ends then
    ended: DriverEnd | None = None
    finished: bool = False
    starts: int = 0
    code: int | None = None  # with which its next driver ends at once
    dies: int = 0  # so many of its next drivers end before they have begun
    died: int = 0  # the epoch of the last of them
    refused: str | None = None  # why no driver of it can be started
    gpu_s: float = 0.0


class FakeCluster:
    """Implements :class:`~orchestrator.dispatch.daemon.Drivers`."""

    def __init__(self, folder: Path, nodes: int, seed: int = 0, odds: float = 0.0) -> None:
        self.folder, self.now = folder, 1_000_000.0
        self.dice = Dice(random.Random(seed), odds)
        self.nodes: tuple[SeenNode, ...] | None = tuple(
            SeenNode(f"id-{number}", f"node{number}", 64.0, GPUS_PER_NODE) for number in range(nodes)
        )
        pool = Pool("gpus", nodes, GPUS_PER_NODE)
        policy = Policy(min_run_s=60.0)
        teams = (Team("nlp"), Team("cv"))
        self.fleet = FleetFile(folder / "fleet.yaml", folder, (PoolEntry(pool),), teams, policy=policy)
        self.runs: dict[str, FakeRun] = {}
        self.where: dict[str, tuple[tuple[str, int], ...]] = {}
        self.said: list[str] = []
        self.signals: list[tuple[int, int]] = []
        self.looks = until_the_end(Store(folder))

    def submit(self, key: str, gpus: int, steps: int = 20, *, every: int = 2, **spec: object) -> None:
        """As `submit` does it, whether or not a daemon is there."""
        plan = PoolPlan("gpus", gpus, steps * 10.0 / 3600.0, step_s=10.0)
        made = JobSpec(key, str(spec.pop("team", "nlp")), (plan,), **spec)  # type: ignore[arg-type]
        self.runs[key] = FakeRun(key, steps, every)
        self.looks.write("ada", self.now, lambda _books: [Submitted(made, key, "/")])

    def say(self, *facts: Fact) -> None:
        self.looks.write("ada", self.now, lambda _books: facts)

    def daemon(self) -> Daemon:
        """One that leads, as after each start of its process."""
        daemon = Daemon(
            until_the_end(MortalStore(self.folder, self.dice)), self, lambda: self.nodes, lambda: self.fleet,
            lambda: self.now, self.said.append,
        )  # fmt: skip
        daemon.lead("head", 1)
        return daemon

    def state(self, key: str) -> JobState:
        entry = self.looks.entry(key)
        assert entry is not None
        return entry.job.state

    def seen(self, entry: Entry) -> Presence:
        self.dice.maybe()
        run = self.runs[entry.key]
        tally = Tally(run.step, run.saved, run.saved > 0, run.steps, 10.0, run.gpu_s, run.gpu_s / 1800.0)
        seen = RunSeen(tally, run.finished, nodes_left=run.left is not None)
        pid = None if run.alive is None else 100 + run.alive
        died = run.died == entry.job.epoch and not run.on_the_way and run.alive is None
        return Presence(run.alive, pid, run.ended, seen, run.asked, bool(run.on_the_way), died=died)

    def start(self, entry: Entry, node_ids: tuple[str, ...]) -> str | None:
        self.dice.maybe()
        run, placement = self.runs[entry.key], entry.job.placement
        assert placement is not None
        if run.refused is not None:
            return run.refused
        run.on_the_way.append((entry.job.epoch, self.dice.random.randrange(3)))
        self.where[f"{entry.key} {entry.job.epoch}"] = tuple(zip(node_ids, placement.gpus, strict=True))
        self.dice.maybe()
        return None

    def ask_to_stop(self, entry: Entry) -> None:
        self.dice.maybe()
        run = self.runs[entry.key]
        assert not run.asked, f"{entry.key} was asked twice, and would not save"
        run.asked, run.leaves_in = True, self.dice.random.randrange(3)
        self.dice.maybe()

    def signal(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))
        for run in self.runs.values():
            if run.alive is not None and 100 + run.alive == pid:
                self.kill(run.name)

    def kill(self, key: str) -> None:
        """Its driver, without a word."""
        run = self.runs[key]
        run.alive, run.asked, run.step = None, False, run.saved
        run.left = run.lingers = None

    def tick(self) -> None:
        """Ten seconds pass: drivers that were started begin, and those that are there do a step."""
        self.now += 10.0
        for run in self.runs.values():
            self._begin(run)
            if run.left is not None:
                self._linger(run)
            elif run.alive is not None:
                self._go_on(run)
        self._check_nodes()

    def _begin(self, run: FakeRun) -> None:
        waiting, run.on_the_way = run.on_the_way, []
        for epoch, ticks in waiting:
            if ticks:
                run.on_the_way.append((epoch, ticks - 1))
                continue
            if run.dies:
                run.dies, run.died = run.dies - 1, epoch
                continue
            # What a driver does before it runs anything: it takes the job's lock, and asks the books.
            entry = self.looks.entry(run.name)
            if run.alive is not None or entry is None:
                continue
            if (entry.job.epoch, entry.job.state) == (epoch, JobState.STARTING):
                assert not run.finished, f"{run.name} runs a second time"
                run.alive, run.asked, run.ended = epoch, False, None
                run.step = run.saved
                run.starts += 1

    def _go_on(self, run: FakeRun) -> None:
        assert run.alive is not None
        gpus = sum(count for _, count in self.where[f"{run.name} {run.alive}"])
        run.gpu_s += 10.0 * gpus
        if run.code is not None:
            self._end(run, run.code)
            return
        run.step += 1
        if run.step % run.every == 0 or run.step >= run.steps:
            run.saved = run.step
        if run.step >= run.steps:
            run.finished = True
            self._end(run, 0)
        elif run.asked:
            run.leaves_in -= 1
            if run.leaves_in < 0:
                run.saved = run.step
                self._end(run, 143)

    def _end(self, run: FakeRun, code: int) -> None:
        run.left, run.code = DriverEnd(run.alive or 0, code), None
        run.lingers = self.dice.random.randrange(3) if run.lingers is None else run.lingers
        self._linger(run)

    def _linger(self, run: FakeRun) -> None:
        run.lingers = (run.lingers or 0) - 1
        if run.lingers < 0:
            run.ended, run.left, run.lingers = run.left, None, None
            run.alive, run.asked = None, False

    def _check_nodes(self) -> None:
        used: dict[str, int] = {}
        for run in self.runs.values():
            if run.alive is not None and run.left is None:
                for node_id, gpus in self.where[f"{run.name} {run.alive}"]:
                    used[node_id] = used.get(node_id, 0) + gpus
        assert max(used.values(), default=0) <= GPUS_PER_NODE, f"more is run than there are GPUs: {used}"
