"""Several hosts on one machine: namespaces joined by a bridge, each with what a machine has for itself.

A host has its own network with one address on the bridge, process ids, host name, IPC, ``/dev/shm``,
``/tmp``, ``/run``, home and working directory, and sees the rest of the disk read-only: interpreter and
checkout are there, as in one image on many machines, and nothing that one host writes is seen by another.

Everything lies below one outer namespace, so the machine's own network is left alone. Its first process
ends when the test process does, however that ends, and the kernel then ends everything below it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.namespaces import (
    HOME,
    NEEDED,
    PATH,
    READY_TIMEOUT_S,
    SHARED,
    WORK,
    NoHostsError,
    address,
    enter,
    host_name,
    pid_namespace,
    pid_one_level_up,
    setup_of_a_host,
    wait_ready,
)
from tests.support.folders import PROJECT

__all__ = ["HOME", "PROJECT", "SHARED", "WORK", "Host", "Network", "NoHostsError", "new_token", "wait_until"]

GCS_PORT = 6379
# Ray's own time to notice a node without power is half a minute.
_RAY_SETTINGS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_memory_monitor_refresh_ms": "0",  # as runs ask for
}


class Host:
    """One machine as far as the processes in it can tell."""

    def __init__(self, network: Network, number: int, shared: Path | None, for_all_users: bool) -> None:
        self.number, self.name, self.address = number, host_name(number), address(number)
        # Interfaces have other names on other machines.
        self.interface = f"en{number}"
        self.environment: dict[str, str] = {
            "HOME": HOME,
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "COLUMNS": "160",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._network = network
        self._cable = f"host{number}"
        flags = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        setup = setup_of_a_host(self.name, shared, for_all_users)
        self._keeper = network.popen(
            ["unshare", *flags, "sh", "-euc", setup], stdout=subprocess.PIPE, text=True
        )
        wait_ready(self._keeper)
        # nsenter forked unshare, which forked the host's first process
        (unshare,) = psutil.Process(self._keeper.pid).children()
        (self._init,) = unshare.children()
        self._plug_in()

    def _plug_in(self) -> None:
        """A cable from the bridge to the host."""
        init = pid_one_level_up(self._init.pid)
        self._network.run(f"ip link add {self._cable} type veth peer name {self.interface} netns {init}")
        self._network.run(f"ip link set {self._cable} master bridge up")
        self.run("ip link set lo up", check=True)
        self.run(f"ip address add {self.address}/24 dev {self.interface}", check=True)
        self.run(f"ip link set {self.interface} up", check=True)
        # What a container engine leaves on every machine: an interface with the same address on all of them.
        self.run("ip link add docker0 type bridge", check=True)
        self.run("ip address add 172.17.0.1/16 dev docker0", check=True)

    def popen(
        self, command: str | Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> Any:
        """Start a process in the host, in its working directory; it dies when its handle is killed."""
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
        settings = [f"{name}={value}" for name, value in (self.environment | dict(env or {})).items()]
        inside = ["sh", "-c", f'cd {WORK} && exec "$@"', "sh", *words]
        entering = enter(self._init.pid, "--uts")
        return subprocess.Popen(
            [*entering, "setpriv", "--pdeathsig", "KILL", "env", "-i", *settings, *inside],
            **{"stdin": subprocess.DEVNULL, "start_new_session": True, **options},
        )

    def run(
        self,
        command: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout_s: float = 120,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; standard error is part of the output."""
        with self.popen(command, env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                text, _ = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise AssertionError(f"{self.name}: {command} exited with status {process.returncode}:\n{text}")
        return subprocess.CompletedProcess(command, process.returncode, text)

    def read(self, path: str | Path) -> str:
        """A file as the host sees it."""
        return self.run(["cat", str(path)], check=True).stdout

    def write(self, path: str | Path, text: str) -> None:
        """A file that this host alone has."""
        with self.popen(
            ["tee", str(path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            process.communicate(text, timeout=20)
        assert process.returncode == 0

    def seen_from_outside(self, path: str | Path) -> Path:
        """The same file by a path that this process can read while the host lives."""
        return Path(f"/proc/{self._init.pid}/root{path}")

    def processes(self) -> list[psutil.Process]:
        """All that run in the host."""
        namespace = os.readlink(f"/proc/{self._init.pid}/ns/pid")
        return [process for process in psutil.process_iter() if pid_namespace(process.pid) == namespace]

    def ray_start(
        self,
        head: Host | None = None,
        num_cpus: int = 2,
        dashboard: bool = False,
        object_store_bytes: int = 80_000_000,
        labels: str = "",
    ) -> None:
        """``ray start`` as the head of a cluster, or joining ``head``'s; with the host's own token, if
        any."""
        command = ["ray", "start", f"--node-ip-address={self.address}", f"--num-cpus={num_cpus}"]
        command += [f"--object-store-memory={object_store_bytes}", "--disable-usage-stats"]
        # it brings drivers what Ray's workers print, which ours leave out
        command += ["--include-log-monitor=false"]
        command += [f"--labels={labels}"] if labels else []
        if head is None:
            command += ["--head", f"--port={GCS_PORT}", f"--include-dashboard={str(dashboard).lower()}"]
        else:
            command += [f"--address={head.gcs_address}"]
        self.run(command, _RAY_SETTINGS, check=True)

    @property
    def gcs_address(self) -> str:
        return f"{self.address}:{GCS_PORT}"

    def cut_cable(self) -> None:
        """Nothing reaches the host any more, and nobody is told."""
        self._network.run(f"ip link set {self._cable} down")

    def mend_cable(self) -> None:
        """As it was before :meth:`cut_cable`."""
        self._network.run(f"ip link set {self._cable} up")

    @property
    def alive(self) -> bool:
        return self._init.is_running()

    def kill(self) -> None:
        """Power off: no process of the host has a last word, and no socket is closed for the others to
        see."""
        if self._init.is_running() and self._network.alive:
            self.cut_cable()
            self._init.kill()
        self._keeper.wait(READY_TIMEOUT_S)
        self._keeper.stdout.close()


class Network:
    """The bridge, and the namespace that everything lives in. Use as a context manager."""

    def __init__(self) -> None:
        for program, package in NEEDED.items():
            if shutil.which(program, path=PATH) is None:
                raise NoHostsError(f"hosts are namespaces, which need '{program}' of the package {package}")
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        # The bridge lives as long as this process keeps the pipe open.
        setup = (
            "ip link set lo up; ip link add bridge type bridge; ip link set bridge up; echo ready; exec cat"
        )
        flags = ["--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        self._keeper = subprocess.Popen(
            ["unshare", *user, *flags, "sh", "-euc", setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": PATH},
        )
        self.hosts: list[Host] = []
        try:
            wait_ready(self._keeper)
            (self._init,) = psutil.Process(self._keeper.pid).children()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._keeper.poll() is None

    def add_host(self, shared: Path | None = None, for_all_users: bool = False) -> Host:
        """Another machine; a ``shared`` folder of ours is its ``/tmp/shared``, as from a file server. With
        ``for_all_users`` others than root find interpreter and checkout there too."""
        self.hosts.append(Host(self, len(self.hosts) + 1, shared, for_all_users))
        return self.hosts[-1]

    def popen(self, command: Sequence[str], **options: Any) -> Any:
        """Start a process beside the bridge."""
        return subprocess.Popen(
            [*enter(self._init.pid), *command],
            env={**os.environ, "PATH": PATH},
            **{
                "stdin": subprocess.DEVNULL,
                "stderr": subprocess.STDOUT,
                "start_new_session": True,
                **options,
            },
        )

    def run(self, command: str) -> None:
        """Run a command beside the bridge to its end. Raises :class:`NoHostsError` when it fails."""
        with self.popen(shlex.split(command), stdout=subprocess.PIPE, text=True) as process:
            text, _ = process.communicate(timeout=20)
        if process.returncode != 0:
            raise NoHostsError(f"this machine joins no networks for us: {command}: {text.strip()}")

    def close(self) -> None:
        """End every host and the bridge."""
        with self._keeper:
            self._keeper.kill()
        for host in self.hosts:
            host.kill()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_token() -> str:
    """A token for Ray's authentication, as long as those that Ray generates."""
    return secrets.token_hex(32)


def wait_until(true: Any, timeout_s: float, what: str) -> None:
    """Until ``true()`` is, looking ten times a second."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.1)
