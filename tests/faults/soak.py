"""Chaos: run after run of the main job, each struck at random by what machines and people do, and looked at
after.

    python -m tests.faults.soak --minutes 30 --seed 1

Three runs go beside each other: two on this machine, each on a cluster that is kept for it, and one over
hosts that are namespaces. Each is struck one to four times at steps of its own, taken up again as often as
its driver ends before it has finished, and must then have trained what an uninterrupted run trains, to the
last digit of every loss. The same seed makes the same choices. Before them whatever is read is fuzzed for a
while (tests/fuzz), in round after round of other examples. What is printed in the end goes into
docs/operations.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from orchestrator.events import RankLost
from tests.faults.disks import NoDisksError, mount, unmount
from tests.faults.night import Interrupted
from tests.faults.night_here import NightHere, Place
from tests.faults.night_on_hosts import NightOnHosts, site
from tests.faults.runs import COMMON, User
from tests.hosts.hosts import NoHostsError
from tests.support.mlflow_server import Server, make_database
from tests.support.proxy import Proxy

LANES_HERE = 2
LANES = LANES_HERE + 1
# Room for the checkpoints of two runs, of which one is cleared before the next one begins.
RUNS_MB, CHECKPOINTS_MB = 400, 200
MOST_SAID = 20_000  # characters of a round that found something
# Set where this process has mounts of its own, which are gone with it and what it has started.
OWN_MOUNTS = "ORCHESTRATOR_SOAK_OWN_MOUNTS"


@dataclass
class Tally:
    """What came together of all runs."""

    struck: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    runs: int = 0
    drivers: int = 0
    lost: int = 0
    fuzzed: int = 0  # rounds


@dataclass(frozen=True)
class Soak:
    """What all lanes share. ``keep``: where the folders of broken runs go."""

    folder: Path
    seed: int
    end_s: float
    server: Server
    database: Path
    keep: Path | None
    tally: Tally = field(default_factory=Tally)
    stopping: threading.Event = field(default_factory=threading.Event)

    def goes_on(self) -> bool:
        return time.monotonic() < self.end_s and not self.stopping.is_set()

    def spend(self, night: NightHere | NightOnHosts) -> None:
        """One run, counted whatever comes of it."""
        kinds = [strike.what for strike in night.plan]
        keep = None
        try:
            night.go()
            print(f"{night.name}: finished as if nothing had happened, after: {', '.join(kinds)}", flush=True)
        except Interrupted:
            return
        except Exception:  # noqa: BLE001 - whatever it is, it is one of the things that are counted
            self.tally.broken.append(night.name)
            keep = self.keep
            print(f"{night.name}: BROKEN, planned: {night.plan}\n{traceback.format_exc()}", flush=True)
        finally:
            self._count(night)
            night.clear(keep)

    def _count(self, night: NightHere | NightOnHosts) -> None:
        self.tally.runs, self.tally.drivers = self.tally.runs + 1, self.tally.drivers + night.drivers
        self.tally.struck.update(strike.what for strike in night.struck)
        self.tally.lost += len(night.told.of(RankLost)) if night.run is not None else 0


def lane_here(soak: Soak, lane: int) -> None:
    """Run after run on a cluster of this lane's own: whose an agent is cannot be seen from outside."""
    folder = soak.folder / str(lane)
    folder.mkdir()
    proxy = Proxy(soak.server.port, random.Random(f"{soak.seed}/proxy {lane}"))
    with contextlib.closing(proxy), own_disks(folder) as disks:
        user = User(folder, database=soak.database)
        with user.keeping(*COMMON):
            whole = user.start("whole", pace_s=0).ended()
            assert whole.code == 0, whole.text
            shutil.rmtree(whole.folder / "checkpoints")
            soak.server.wait()
            place, number = Place(user, whole, disks, soak.server, proxy), lane
            while soak.goes_on():
                soak.spend(
                    NightHere(f"night-{soak.seed}-{number}", f"{soak.seed}/{number}", place, soak.stopping)
                )
                number += LANES


@contextlib.contextmanager
def own_disks(folder: Path) -> Iterator[list[Path]]:
    """File systems for run directories and for checkpoints, if this process may mount any."""
    disks: list[Path] = []
    try:
        if OWN_MOUNTS not in os.environ:
            raise NoDisksError("this machine gives us no mounts of our own")
        for name, size_mb in (("runs", RUNS_MB), ("checkpoints", CHECKPOINTS_MB)):
            disks.append(mount(folder / name, size_mb))
    except NoDisksError as error:
        print(f"no disk is filled: {error}", flush=True)
    try:
        yield disks
    finally:
        for disk in disks:
            unmount(disk)


def lane_on_hosts(soak: Soak, lane: int) -> None:
    """The same over hosts, where this machine lets us make any."""
    try:
        with site(soak.folder / str(lane)) as place:
            number = lane
            while soak.goes_on():
                soak.spend(
                    NightOnHosts(f"night-{soak.seed}-{number}", f"{soak.seed}/{number}", place, soak.stopping)
                )
                number += LANES
    except NoHostsError as error:
        print(f"no run over several hosts: {error}", flush=True)


def run(soak: Soak) -> None:
    """All lanes, to their end; what breaks a lane itself is raised when the others have ended."""
    soak.server.start()
    with contextlib.closing(soak.server), ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(lane_here, soak, lane) for lane in range(LANES_HERE)]
        lanes.append(pool.submit(lane_on_hosts, soak, LANES_HERE))
        for lane in lanes:
            lane.add_done_callback(lambda one: soak.stopping.set() if one.exception() is not None else None)
        for lane in lanes:
            lane.result()


def fuzz(soak: Soak, minutes: float) -> None:
    """All that is parsed, with other examples in each round; one that is under way at the end is seen
    through."""
    end_s = time.monotonic() + 60.0 * minutes
    while time.monotonic() < end_s and not soak.stopping.is_set():
        seed = f"--hypothesis-seed={soak.seed + soak.tally.fuzzed}"
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/fuzz"]
        round_ = subprocess.run(
            [*command, "--hypothesis-profile=soak", seed], capture_output=True, text=True, check=False
        )
        soak.tally.fuzzed += 1
        if round_.returncode and not soak.stopping.is_set():
            soak.tally.broken.append(f"fuzz with {seed}")
            print(f"fuzz with {seed}: BROKEN\n{round_.stdout[-MOST_SAID:]}", flush=True)
            return


def told(soak: Soak, minutes: float) -> int:
    """Print the figures; the number of runs after which something did not hold."""
    tally = soak.tally
    if tally.fuzzed:
        print(
            f"\n{tally.fuzzed} rounds of tests/fuzz, with --hypothesis-profile=soak and seeds from"
            f" {soak.seed} on"
        )
    print(
        f"\nseed {soak.seed}, {minutes:g} minutes: {tally.runs} runs, {tally.drivers} drivers, "
        f"{sum(tally.struck.values())} strikes, {tally.lost} times a rank was lost"
    )
    for what, times in tally.struck.most_common():
        print(f"  {times:4d}  {what}")
    broken = len(tally.broken)
    print(
        f"what did not hold (a run's training, what it left, what was fuzzed): {broken} {tally.broken or ''}"
    )
    return broken


def with_own_mounts() -> None:
    """Begin again where what is mounted is seen by nobody else and is gone with us, however we end."""
    own = ["unshare", "--mount", "--propagation", "private"]
    own += [] if os.geteuid() == 0 else ["--map-root-user"]
    if OWN_MOUNTS in os.environ or shutil.which(own[0]) is None:
        return
    if subprocess.run([*own, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
        os.environ[OWN_MOUNTS] = "1"
        os.execvp(own[0], [*own, sys.executable, "-m", "tests.faults.soak", *sys.argv[1:]])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--fuzz-minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--keep", type=Path, help="a folder for those of runs after which something did not hold"
    )
    options = parser.parse_args(words)
    with_own_mounts()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "server").mkdir()
        database = make_database(folder / "mlflow.db")
        server = Server(folder / "server", database)
        soak = Soak(folder, options.seed, math.inf, server, database, options.keep)

        def stop(signum: int, frame: FrameType | None) -> None:
            soak.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        fuzz(soak, options.fuzz_minutes)
        if options.minutes > 0 and soak.goes_on():
            run(replace(soak, end_s=time.monotonic() + 60.0 * options.minutes))
        sys.exit(min(1, told(soak, options.minutes)))


if __name__ == "__main__":
    main()
