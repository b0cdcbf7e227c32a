"""A Slurm of one node, this machine, of the tests' own."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.services.needs import program
from tests.services.processes import Service
from tests.support.ports import free_port

# No accounting, no control groups: what a job needs to be started, followed and ended.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_COMMAND_TIMEOUT_S = 60


class Slurm:
    """munged, slurmctld and slurmd, with a key, a socket and ports of their own."""

    def __init__(self) -> None:
        munged = program("munged", "munge")
        controller, node = program("slurmctld", "slurmctld"), program("slurmd", "slurmd")
        for name in ("sbatch", "scontrol", "scancel", "sinfo"):
            program(name, "slurm-client")
        self._services: list[Service] = []
        # munge wants a folder that everybody may pass, and its key to be nobody else's.
        self.folder = folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        folder.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        self.file = folder / "slurm.conf"
        self.file.write_text(
            CONFIGURATION.format(
                host=host,
                controller_port=free_port(),
                node_port=free_port(),
                user=pwd.getpwuid(os.geteuid()).pw_name,
                folder=folder,
            )
        )
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        try:
            self._start([munged, "--foreground", f"--socket={folder}/munge.socket", *files])
            self._services[-1].until((folder / "munge.socket").exists)
            self._start([controller, "-D", "-f", str(self.file)])
            self._start([node, "-D", "-f", str(self.file)])
            self._services[-1].until(
                lambda: self.command("sinfo", "--noheader", "--format=%T", check=False) == "idle"
            )
        except BaseException:
            self.close()
            raise

    def command(
        self, name: str, *words: str, environment: Mapping[str, str] | None = None, check: bool = True
    ) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            [name, *words], env={**(environment or os.environ), "SLURM_CONF": str(self.file)},
            capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.command("scontrol", "--oneliner", "show", "job", number)))

    def close(self) -> None:
        for service in reversed(self._services):
            service.close()
        shutil.rmtree(self.folder)

    def _start(self, command: list[str]) -> None:
        self._services.append(Service(command, self.folder, {**os.environ, "SLURM_CONF": str(self.file)}))
