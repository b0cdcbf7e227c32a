"""A Slurm over three hosts made of namespaces, each with an address, a ``/tmp`` and a slurmd of its own."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hosts.hosts import PROJECT, SHARED, Host, Network
from tests.services.needs import program

NODES = 3
# A requeued job waits until its credential has expired, two minutes where nothing is said; the shortest is 10 s.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={controller.name}({controller.address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=/tmp/slurm/munge.socket,cred_expire=10
StateSaveLocation=/tmp/slurm/state
SlurmdSpoolDir=/tmp/slurm/spool
SlurmctldPidFile=/tmp/slurm/slurmctld.pid
SlurmdPidFile=/tmp/slurm/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
TopologyPlugin=topology/tree
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# The second host is behind another switch than the others.
TOPOLOGY = """\
SwitchName=leaf1 Nodes={0.name},{2.name}
SwitchName=leaf2 Nodes={1.name}
SwitchName=spine Switches=leaf[1-2]
"""
_READY_S, _LOOK_S = 120.0, 0.5


class SlurmOnHosts:
    """munged, slurmctld and three slurmd. ``shared`` is a folder that all of them see."""

    def __init__(self, network: Network, shared: Path) -> None:
        munged = program("munged", "munge")
        controller, node = program("slurmctld", "slurmctld"), program("slurmd", "slurmd")
        for name in ("sbatch", "scontrol", "scancel", "sinfo", "srun"):
            program(name, "slurm-client")
        self.shared = shared
        self.hosts = [network.add_host(shared) for _ in range(NODES)]
        self._services: list[Any] = []
        (shared / "munge.key").touch(0o600)
        (shared / "munge.key").write_bytes(secrets.token_bytes(1024))
        nodes = [f"NodeName={h.name} NodeAddr={h.address} CPUs=2 State=UNKNOWN" for h in self.hosts]
        text = CONFIGURATION.format(controller=self.hosts[0], nodes="\n".join(nodes))
        (shared / "slurm.conf").write_text(text)
        (shared / "topology.conf").write_text(TOPOLOGY.format(*self.hosts))
        for host in self.hosts:
            host.environment |= {"SLURM_CONF": f"{SHARED}/slurm.conf", "PYTHONPATH": str(PROJECT)}
            host.run(["mkdir", "-p", "/tmp/slurm/state", "/tmp/slurm/spool"], check=True)
            host.run(["install", "-m", "600", f"{SHARED}/munge.key", "/tmp/slurm/munge.key"], check=True)
            files = [f"--{name}-file=/tmp/slurm/munge.{name}" for name in ("key", "pid", "log", "seed")]
            self._start(host, [munged, "--foreground", "--socket=/tmp/slurm/munge.socket", *files])
        self.until(self._keys_are_there, "munge")
        self._start(self.hosts[0], [controller, "-D"])
        for host in self.hosts:
            self._start(host, [node, "-D", "-N", host.name])
        self.until(lambda: self.states() == ["idle"] * NODES, "idle nodes")

    def _start(self, host: Host, command: list[str]) -> None:
        log = (self.shared / f"{host.name}.{Path(command[0]).name}.log").open("w")
        with log:
            self._services.append(host.popen(command, stdout=log, stderr=log))

    def _keys_are_there(self) -> bool:
        return all(h.seen_from_outside("/tmp/slurm/munge.socket").exists() for h in self.hosts)

    def close(self) -> None:
        """End what was started on the hosts; whoever made the network ends those."""
        for process in self._services:
            process.kill()
            process.wait()

    def command(self, *words: str, check: bool = True) -> str:
        """What a command prints on the first host."""
        return str(self.hosts[0].run(list(words), check=check).stdout).strip()

    def states(self) -> list[str]:
        return self.command("sinfo", "--noheader", "--Node", "--format=%T", check=False).splitlines()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.command("scontrol", "--oneliner", "show", "job", number)))

    def until(self, true: Callable[[], object], what: str, timeout_s: float = _READY_S) -> None:
        """Wait for it; with what everybody has said where it does not come."""
        deadline_s = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline_s:
                said = [
                    f"{log.name}:\n{log.read_text()[-3000:]}" for log in sorted(self.shared.glob("*.log"))
                ]
                raise AssertionError(f"no {what} within {timeout_s:g} s\n" + "\n".join(said))
            time.sleep(_LOOK_S)
