"""Nights on this machine: processes, disks and MLflow are struck."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.disks import MB, fill, free
from tests.faults.invariants import finished_like, mlflow_agrees, nothing_left
from tests.faults.night import Lasting, Night, planned
from tests.faults.runs import STEPS, Run, User
from tests.support.mlflow_server import Server
from tests.support.processes import title
from tests.support.proxy import Proxy, Trouble

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
SETTINGS = [
    "recovery.max_restarts=20",
    "recovery.max_faults_without_progress=20",
    "recovery.hang_floor_s=5",
    "recovery.hang_evidence_s=3",
]
SERVER_SHARE = 0.5
# MLflow's client keeps what it has been told last for the whole process.
_asking_mlflow = threading.Lock()


@dataclass(frozen=True)
class Place:
    """What a lane has for its runs. ``disks`` are file systems of their own: that of the run directories,
    another one for checkpoints; none where this machine mounts nothing for us."""

    user: User
    whole: Run
    disks: Sequence[Path]
    server: Server
    proxy: Proxy


class NightHere(Night):
    """``on_server``: it tracks to a server and not to a file. ``apart``: its checkpoints have a disk of their
    own."""

    def __init__(self, name: str, seed: str, place: Place, stopping: threading.Event) -> None:
        chance = random.Random(f"{seed}/place")
        self.on_server = chance.random() < SERVER_SHARE
        self.apart = bool(chance.getrandbits(1)) and bool(place.disks)
        kinds = [*PROCESSES, *(DISKS if place.disks else ()), *(SERVER if self.on_server else ())]
        super().__init__(name, planned(seed, kinds, STEPS - 2), stopping)
        self.place = place
        self.run: Run | None = None

    @property
    def told(self) -> Run:
        assert self.run is not None
        return self.run

    @property
    def checkpoints(self) -> Path:
        return self.place.disks[1] / self.name if self.apart else self.told.folder / "checkpoints"

    def begin(self) -> None:
        words = [*SETTINGS]
        if self.apart:
            words.append(f"job.checkpoint_dir={self.place.disks[1] / self.name}")
        if self.on_server:
            # A process that tells a slow server outlives a driver that is killed by so long.
            words += [
                f"tracking.uri={self.place.proxy.uri}",
                "tracking.flush_s=0.5",
                "tracking.finish_timeout_s=15",
            ]
        self.run = self.place.user.start(self.name, *words, tracked=True)

    def take_up(self) -> None:
        self.run = self.place.user.resume(self.name)
        self.run.hold_back()

    def alive(self) -> bool:
        return self.told.alive()

    def hurry(self) -> None:
        self.told.hurry()

    def tend(self) -> None:
        """Nothing here comes back only when somebody sees to it."""

    def driver_ended(self) -> None:
        self.told.ended()
        nothing_left(self.told)

    def holds(self) -> None:
        finished_like(self.told, self.place.whole, self.checkpoints)
        if "MLflow could not be brought up to date" in self.told.text:
            synced = self.place.user.command("sync", self.name)
            assert synced.returncode == 0, synced.stdout + synced.stderr
        file = f"sqlite:///{self.place.user.folder}/runs/mlflow.db"
        with _asking_mlflow:
            mlflow_agrees(self.told, self.place.server.uri if self.on_server else file)

    def clear(self, keep: Path | None) -> None:
        """Make room for the next one; a folder that is to be looked at is kept elsewhere."""
        if self.run is None:
            return
        self.run.kill()
        if keep is not None:
            shutil.copytree(self.run.folder, keep / self.name, dirs_exist_ok=True)
            if self.apart and self.checkpoints.exists():
                shutil.copytree(self.checkpoints, keep / f"{self.name}.checkpoints", dirs_exist_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def named(self, words: str) -> list[psutil.Process]:
        return [process for process in self.told.family() if words in title(process)]

    def a_rank(self, chance: random.Random) -> list[psutil.Process]:
        ranks = sorted(self.named("orchestrator rank "), key=title)
        return [chance.choice(ranks)] if ranks else []


def send(number: int, *processes: psutil.Process) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def frozen(processes: Sequence[psutil.Process], seconds: float) -> Lasting:
    send(signal.SIGSTOP, *processes)
    return Lasting(seconds, lambda: send(signal.SIGCONT, *processes))


def stop_at_once(night: NightHere) -> None:
    send(signal.SIGINT, night.told.driver)
    time.sleep(0.2)
    send(signal.SIGINT, night.told.driver)


def full(disk: Path, chance: random.Random) -> Lasting:
    """To the last byte, or with a little left: then small files find room, and large ones begin."""
    fill(disk, leaving_bytes=chance.choice([0, MB]))
    return Lasting(chance.uniform(2.0, 10.0), lambda: free(disk))


def trouble(night: NightHere, what: Trouble, seconds: float) -> Lasting:
    night.place.proxy.trouble = what

    def end() -> None:
        if night.place.proxy.trouble is what:  # else another kind has begun meanwhile
            night.place.proxy.trouble = Trouble.NONE

    return Lasting(seconds, end, mended_first=False)


Strikes = dict[str, Callable[[NightHere, random.Random], Lasting | None]]
PROCESSES: Strikes = {
    "a rank is killed": lambda night, chance: send(signal.SIGKILL, *night.a_rank(chance)),
    "all ranks are killed": lambda night, chance: send(signal.SIGKILL, *night.named("orchestrator rank ")),
    "a rank is stopped": lambda night, chance: send(signal.SIGSTOP, *night.a_rank(chance)),
    "a rank gets a stray signal": lambda night, chance: send(chance.choice(STOPS[1:3]), *night.a_rank(chance)),
    "the writer is killed": lambda night, chance: send(signal.SIGKILL, *night.named("orchestrator writer ")),
    "the agent is killed": lambda night, chance: send(signal.SIGKILL, *night.named("ray::NodeAgent")),
    "MLflow's process is killed": lambda night, chance: send(signal.SIGKILL, *night.named("mlflow.sink")),
    "MLflow's process is stopped": lambda night, chance: frozen(night.named("mlflow.sink"), 3.0),
    "the driver is killed": lambda night, chance: send(signal.SIGKILL, night.told.driver),
    "the driver is frozen": lambda night, chance: frozen([night.told.driver], chance.uniform(1.0, 8.0)),
    "the driver is asked to stop": lambda night, chance: send(chance.choice(STOPS), night.told.driver),
    "all are asked to stop": lambda night, chance: send(
        chance.choice(STOPS[:3]), night.told.driver, *night.told.family()
    ),
    "it is stopped at once": lambda night, chance: stop_at_once(night),
}  # fmt: skip
DISKS: Strikes = {
    "the disk of the run directory is full": lambda night, chance: full(night.place.disks[0], chance),
    "the disk of the checkpoints is full": lambda night, chance: full(night.place.disks[night.apart], chance),
}
SERVER: Strikes = {
    "MLflow answers slowly": lambda night, chance: trouble(night, Trouble.SLOW, chance.uniform(5.0, 20.0)),
    "MLflow does not answer": lambda night, chance: trouble(night, Trouble.STUCK, chance.uniform(2.0, 20.0)),
    "MLflow's connections are torn": lambda night, chance: trouble(
        night, Trouble.TORN, chance.uniform(2.0, 20.0)
    ),
}
NightHere.strikes = PROCESSES | DISKS | SERVER
