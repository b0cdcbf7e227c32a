"""``make soak-queue``: many jobs in the queue of a Ray over three hosts made of namespaces, whose daemon,
drivers and head are killed at random."""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.hosts import HOME, PROJECT, SHARED, Host, Network
from tests.real.test_queue import JOB
from tests.support.processes import end, running, title
from tests.support.struck_queue import StruckQueue

HOSTS = 3
# Long enough for each job to be struck some times, also where a kill takes longer than many steps.
STEPS = 200
HEADS = 0.05  # of all kills
JOIN_TRIES = 5
SAY_EVERY = 10  # kills
# What differs between the jobs of one kind is nothing: they have to train the same.
KINDS = {
    "one": ("cluster.gpus_per_node=1",),
    "two": ("cluster.gpus_per_node=2",),
    "four": ("cluster.gpus_per_node=2", "cluster.nodes=2"),
}
PRODUCT = 0.4  # of all jobs
_WITHIN_S = 6 * 3600.0
_UP = ["python", "-m", "orchestrator", "up", "gpu=cpu", "cluster.gpus_per_node=2",
       "cluster.cpu_threads_per_rank=1", "launch.dashboard=false", "run_root=elsewhere"]  # fmt: skip
_RECORD, _TOKEN = f"{HOME}/.local/state/orchestrator/cluster.json", f"{HOME}/.ray/auth_token"
_UP_S = 300.0


@dataclass
class QueueOnHosts(StruckQueue):
    """As its base, its daemon and drivers on the first of three hosts; ``folder`` is what all see as
    /tmp/shared. Now and then Ray's head is killed, and somebody starts another."""

    hosts: list[Host] = field(default_factory=list)

    def up(self) -> None:
        """Ray on all hosts, and what is warm on each."""
        head, *others = self.hosts
        head.run([*_UP, f"launch.node_address={head.address}"], timeout_s=_UP_S, check=True)
        address, token = json.loads(head.read(_RECORD))["address"], head.read(_TOKEN)

        def join(host: Host) -> None:
            host.run(["mkdir", "-p", "-m", "700", f"{HOME}/.ray"], check=True)
            host.write(_TOKEN, token)
            start = ["ray", "start", f"--address={address}", f"--node-ip-address={host.address}"]
            # Ray gives a node half a minute to come up, which a busy machine may not have for it.
            for tries_left in reversed(range(JOIN_TRIES)):
                end(*[process for process in host.processes() if "ray" in title(process)])
                done = host.run(
                    [*start, "--num-cpus=2"],
                    {"RAY_AUTH_MODE": "token"},
                    timeout_s=_UP_S,
                    check=not tries_left,
                )
                if done.returncode == 0:
                    return

        with ThreadPoolExecutor() as pool:
            list(pool.map(join, others))
        head.run(_UP, timeout_s=_UP_S, check=True)

    def command(self, *words: str) -> tuple[int, str]:
        done = self.hosts[0].run(
            ["env", f"--chdir={SHARED}", "python", "-m", "orchestrator", *words], timeout_s=_UP_S
        )
        return done.returncode, done.stdout

    def _started(self, log: int) -> subprocess.Popen[bytes]:
        command = ["env", f"--chdir={SHARED}", "python", "-m", "orchestrator", "dispatch"]
        started: subprocess.Popen[bytes] = self.hosts[0].popen(command, stdout=log, stderr=log)
        return started

    def _process(self, pid: int) -> psutil.Process | None:
        for process in self.hosts[0].processes():
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                inside = next(line for line in lines if line.startswith("NSpid:"))
                if int(inside.split()[-1]) == pid:
                    return process
        return None

    def _kill(self) -> None:
        if self.dice.random() > HEADS:
            super()._kill()
        else:
            self._kill_head()
        if len(self.kills) % SAY_EVERY == 0:
            live = len(self.store.read().live())
            print(f"{time.strftime('%H:%M:%S')}: {len(self.kills)} kills, {live} jobs to go", flush=True)

    def _kill_head(self) -> None:
        known: dict[str, Any] = json.loads(self.hosts[0].read(_RECORD))
        head = self._process(known["head_pid"])
        if head is not None and running(head):
            end(head)
            self.kills.append("head")
        self.up()


@contextmanager
def queue_on_hosts(folder: Path, seed: int) -> Iterator[QueueOnHosts]:
    """Three hosts whose Ray is up; all is gone at the end."""
    with Network() as network:
        hosts = [network.add_host(folder) for _ in range(HOSTS)]
        for host in hosts:
            host.environment["PYTHONPATH"] = str(PROJECT)
        queue = QueueOnHosts(folder, {}, seed, nodes=HOSTS, hosts=hosts)
        try:
            queue.up()
            yield queue
        finally:
            queue.close()


def main() -> None:
    """Raises where a job is lost, finishes twice, trains other than its like, or begins before what it had
    saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    asked = parser.parse_args()
    print(f"--seed {asked.seed}", flush=True)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, queue_on_hosts(Path(folder), asked.seed) as queue:
        kinds: dict[str, list[str]] = {name: [] for name in KINDS}
        for number in range(asked.jobs):
            kind, key = queue.dice.choice(list(KINDS)), f"job-{number}"
            words = [*JOB, *KINDS[kind], f"job.steps={STEPS}"]
            kinds[kind].append(key)
            if queue.dice.random() < PRODUCT:
                # They find others at work, whom they stop.
                queue.later.append((queue.dice.randrange(asked.kills), key, ["class=product", *words]))
            else:
                queue.submit(key, "class=batch", *words)
        queue.later.sort()
        queue.begin()
        queue.strike(asked.kills, _WITHIN_S)
        queue.check([keys for keys in kinds.values() if keys], STEPS)
        stops = sum(entry.job.preemptions for entry in queue.store.newest_ended(1000))
        told = {what: queue.kills.count(what) for what in sorted(set(queue.kills))}
    print(
        f"{asked.jobs} jobs on {HOSTS} hosts finished once each and alike, after {len(queue.kills)} kills"
        f" ({told}) and {stops} stops for others, in {(time.monotonic() - begun_s) / 60.0:.0f} minutes:"
        " nothing is lost"
    )


if __name__ == "__main__":
    main()
