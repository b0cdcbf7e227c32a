"""Nights over several hosts: cables are cut, machines lose their power, and people bring them back."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.events import ResourcesGranted
from tests.faults.invariants import buckets_sum, one_attempt_at_a_time, trained_like, wait_until
from tests.faults.night import Lasting, Night, planned
from tests.hosts.hosts import SHARED, Host, Network, new_token
from tests.hosts.runs import COMMON, STEPS, Run, hurry, processes_of, take_up, train
from tests.support.processes import running

NODES, WORKERS = 2, 3
SETTINGS = [
    "recovery.max_restarts=20",
    "recovery.max_faults_without_progress=20",
    "recovery.hang_floor_s=8",
    "recovery.hang_evidence_s=5",
    "recovery.wait_for_node_s=300",
]
# Ray takes half a minute to end what runs on a host that it has given up, and on a busy machine longer.
GONE_S = 120.0
JOIN_TIMEOUT_S = 120


@dataclass
class Site:
    """A host for drivers with Ray's head and no ranks, and those that ranks run on."""

    network: Network
    shared: Path
    desk: Host
    workers: list[Host]
    unplugged: list[Host] = field(default_factory=list)
    losses: dict[int, float | None] = field(default_factory=dict)

    def cut_off(self, host: Host, seconds: float) -> Lasting:
        """A host that is cut off twice is so until both are over."""
        host.cut_cable()
        self.unplugged.append(host)

        def mend() -> None:
            self.unplugged.remove(host)
            if host.alive and host not in self.unplugged:
                host.mend_cable()

        return Lasting(seconds, mend)

    def tend(self) -> None:
        """A machine without power is replaced; where Ray has given up it is started again."""
        if self.desk in self.unplugged:
            return
        for number, host in enumerate(self.workers):
            if host.alive and (host in self.unplugged or processes_of(host, "/raylet/raylet ")):
                continue
            if not host.alive:
                self.workers[number] = host = self._new_host()
            # tried again at the next look
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                host.ray_start(self.desk)

    def _new_host(self) -> Host:
        host = self.network.add_host(self.shared)
        host.environment |= self.desk.environment
        return host

    def complete(self) -> bool:
        """Whether all hosts run Ray; makes it so."""
        self.tend()
        return all(host.alive and processes_of(host, "/raylet/raylet ") for host in self.workers)


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Raises :class:`~tests.hosts.hosts.NoHostsError`. What is in namespaces ends with this process at the
    latest."""
    folder.mkdir()
    with Network() as network:
        desk = network.add_host(folder)
        desk.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": new_token()}
        desk.ray_start(num_cpus=0)
        made = Site(network, folder, desk, [])
        made.workers = [made._new_host() for _ in range(WORKERS)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: host.ray_start(desk), made.workers))
        # Torch and DeepSpeed are imported once on each, and not once for every run.
        desk.run(
            ["python", "-m", "orchestrator", "up", *COMMON, f"ray_address={desk.gcs_address}"], check=True
        )
        whole = train(desk, "whole", NODES)
        hurry(desk, whole)
        assert whole.ended().code == 0, whole.text
        made.losses = whole.losses()
        yield made


class NightOnHosts(Night):
    """A rank on each of two hosts, with a third as their spare."""

    def __init__(self, name: str, seed: str, place: Site, stopping: threading.Event) -> None:
        super().__init__(name, planned(seed, list(self.strikes), STEPS - 2), stopping)
        self.site = place
        self.run: Run | None = None

    @property
    def told(self) -> Run:
        assert self.run is not None
        return self.run

    def begin(self) -> None:
        assert wait_until(self.site.complete, GONE_S), "not all hosts have Ray again"
        self.run = train(
            self.site.desk, self.name, NODES, *SETTINGS, f"job.checkpoint_dir={SHARED}/{self.name}"
        )

    def take_up(self) -> None:
        (self.site.shared / f"{self.name}.hurry").unlink(missing_ok=True)
        self.run = take_up(self.site.desk, self.name)

    def alive(self) -> bool:
        return self.told.process.poll() is None

    def hurry(self) -> None:
        hurry(self.site.desk, self.told)

    def tend(self) -> None:
        self.site.tend()

    def driver_ended(self) -> None:
        self.told.ended()

    def holds(self) -> None:
        trained_like(self.told, self.site.losses, self.site.shared / self.name)
        one_attempt_at_a_time(self.told)
        buckets_sum(self.told)

        def left() -> list[psutil.Process]:
            of_it = (f" {self.name}", "ray::NodeAgent")
            return [
                one
                for host in [self.site.desk, *self.site.workers]
                if host.alive
                for words in of_it
                for one in processes_of(host, words)
                if running(one)
            ]

        assert wait_until(lambda: not left(), GONE_S), f"still there after {GONE_S:g} s: {left()}"

    def clear(self, keep: Path | None) -> None:
        """Make room for the next one; a folder that is to be looked at is kept elsewhere."""
        if self.run is None:
            return
        self.run.process.kill()  # its processes on the host die with it
        if keep is not None and self.run.folder.exists():
            shutil.copytree(self.run.folder, keep / self.name, dirs_exist_ok=True)
        shutil.rmtree(self.site.shared / self.name, ignore_errors=True)

    def a_worker(self, chance: random.Random) -> Host:
        """One that the run is on, if any."""
        names = [name for granted in self.told.of(ResourcesGranted)[-1:] for name in granted.nodes]
        on = [host for host in self.site.workers if host.alive and host.name in names]
        return chance.choice(on or self.site.workers)

    def on_a_worker(self, chance: random.Random, words: str) -> list[psutil.Process]:
        host = self.a_worker(chance)
        return processes_of(host, words) if host.alive else []

    def driver(self) -> list[psutil.Process]:
        return processes_of(self.site.desk, f"-m orchestrator run_name={self.name} ") + processes_of(
            self.site.desk, f"-m orchestrator resume {self.name} "
        )


def send(number: int, processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def short_or_long_s(chance: random.Random) -> float:
    """Shorter than Ray's patience, about as long, and longer."""
    return chance.choice([chance.uniform(0.5, 4.0), chance.uniform(5.0, 20.0), chance.uniform(25.0, 50.0)])


def cut_off(night: NightOnHosts, chance: random.Random) -> Lasting:
    host = night.a_worker(chance)
    return night.site.cut_off(host, short_or_long_s(chance)) if host.alive else Lasting(0.0, lambda: None)


STRIKES: dict[str, Callable[[NightOnHosts, random.Random], Lasting | None]] = {
    "a host is cut off": cut_off,
    "the driver's host is cut off": lambda night, chance: night.site.cut_off(
        night.site.desk, short_or_long_s(chance)
    ),
    "a host loses its power": lambda night, chance: night.a_worker(chance).kill(),
    "Ray is killed on a host": lambda night, chance: send(
        signal.SIGKILL, night.on_a_worker(chance, "/raylet/raylet ")
    ),
    "an agent on a host is killed": lambda night, chance: send(
        signal.SIGKILL, night.on_a_worker(chance, "ray::NodeAgent")
    ),
    "a rank on a host is killed": lambda night, chance: send(
        signal.SIGKILL, night.on_a_worker(chance, "orchestrator rank ")
    ),
    "a rank on a host is stopped": lambda night, chance: send(
        signal.SIGSTOP, night.on_a_worker(chance, "orchestrator rank ")
    ),
    "a driver among hosts is killed": lambda night, chance: send(signal.SIGKILL, night.driver()),
    "a driver among hosts is asked to stop": lambda night, chance: send(signal.SIGTERM, night.driver()),
}  # fmt: skip
NightOnHosts.strikes = STRIKES
