"""Ranks whose connection to each other is gone without a word, in the middle of their collectives: ended.

All ranks are alive, none is stopped, each waits where the others wait. They have a network of their own, in
which the kernel throws away whatever is not for the rendezvous, as a switch or a firewall does that has
forgotten a connection.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.agent.look import Measured, measure
from orchestrator.rank.launch.launcher import ZygoteLauncher
from tests.support.hang_harness import Watched
from tests.support.rank_harness import Bench, environment, wait_until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network of its own"),
]

EVIDENCE_S = 2.0
WORLDS = 3
CLONE_NEWNET = 0x40000000

TRAINS = """
import os, time
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
gradients = torch.zeros(int(os.environ["ELEMENTS"]))
while True:
    dist.all_reduce(gradients)
    print("step", flush=True)
    time.sleep(0.01)
"""


class OwnNetwork:
    """A network with nothing but its loopback. What is called inside runs in one thread, which lives as
    long."""

    def __init__(self) -> None:
        self.inside = ThreadPoolExecutor(1, initializer=_leave_network)
        self.ip("link set lo up")

    def ip(self, words: str) -> None:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)

        done = self.inside.submit(run).result()
        assert done.returncode == 0, done.stderr

    def measure(self, pids: Iterable[int], quiet_port: int | None) -> Mapping[int, Measured]:
        """The agent is where its ranks are."""
        return self.inside.submit(measure, pids, quiet_port).result()

    def forget_connections(self, *but: str) -> None:
        """All but those of these ports, with no error for anybody. Local addresses have the first rule at
        first."""
        for port in but:
            for end in ("sport", "dport"):
                self.ip(f"rule add pref 1 ipproto tcp {end} {port} lookup local")
        self.ip("rule add pref 3 lookup local")
        self.ip("rule add pref 2 blackhole")
        self.ip("rule del pref 0")


def _leave_network() -> None:
    assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def network() -> Iterator[OwnNetwork]:
    one = OwnNetwork()
    yield one
    one.inside.shutdown()


@pytest.fixture
def zygote(network: OwnNetwork) -> Iterator[ZygoteLauncher]:
    settings = environment(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    launcher = network.inside.submit(
        ZygoteLauncher, settings, ["torch", "torch.distributed", "numpy"]
    ).result()
    yield launcher
    launcher.close()


def test_a_dead_connection_between_ranks_in_a_collective_is_ended(
    network: OwnNetwork, zygote: ZygoteLauncher, tmp_path: Path
) -> None:
    """With gradients of a few bytes, and with so many that what is on its way fills the buffers."""
    benches = []
    for number in range(WORLDS):
        (tmp_path / str(number)).mkdir()
        elements = {"ELEMENTS": str(10 ** (number * 3 + 1))}
        benches.append(Bench(zygote, tmp_path / str(number), environment(OMP_NUM_THREADS="1", **elements)))
    try:
        worlds = [
            Watched(one.start_world(one.write(TRAINS)), EVIDENCE_S, measure=network.measure)
            for one in benches
        ]
        for bench in benches:
            assert wait_until(lambda bench=bench: bench.log(0).count("step") > 5)
        network.forget_connections(*{one.ranks[0].spec.env["MASTER_PORT"] for one in worlds})

        def all_lost() -> bool:
            for one in worlds:
                one.poll()
            return all(one.lost for one in worlds)

        assert wait_until(all_lost), [one.seen for one in worlds]
        for one in worlds:
            assert one.lost is not None
            assert "all_reduce" in (one.lost.error or ""), one.lost
            assert all(rank.poll() is None for rank in one.ranks), "nobody has noticed but we"
    finally:
        for bench in benches:
            bench.clear()
