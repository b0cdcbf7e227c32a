"""A ground that spans several hosts, each in namespaces of its own, with one Ray over them all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.ground import Ground
from tests.hosts.hosts import SHARED, Host, Network

NOT_OF_A_HOST = ("HOME", "PATH", "RAY_TMPDIR")


@dataclass(frozen=True)
class HostGround(Ground):
    """Commands run on the first host; the folder is what all hosts share."""

    host: Host

    @property
    def folder_inside(self) -> Path:
        return Path(SHARED)

    def popen(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self.host.popen(command, stdout=log, stderr=log)
        return process


@contextmanager
def ray_on_hosts(ground: Ground, count: int) -> Iterator[tuple[HostGround, str]]:
    """`count` hosts joined by a Ray of theirs, and its address. Raises NoHostsError where namespaces are
    forbidden."""
    with Network() as network:
        hosts = [network.add_host(ground.folder) for _ in range(count)]
        for host in hosts:
            host.environment.update({k: v for k, v in ground.env.items() if k not in NOT_OF_A_HOST})
            # Gloo would take the address of the host's name, which is the host's own loopback.
            host.environment["GLOO_SOCKET_IFNAME"] = host.interface
            host.ray_start(None if host is hosts[0] else hosts[0])
        yield HostGround(ground.folder, ground.env, hosts[0]), hosts[0].gcs_address
