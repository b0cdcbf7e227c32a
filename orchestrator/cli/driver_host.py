"""``python -m orchestrator.cli.driver_host FD ADDRESS``: imports what a driver needs, and forks drivers; see
``driver/driver_host.py``."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from dataclasses import asdict

import setproctitle

from orchestrator.agent.facts import own_sha256
from orchestrator.cluster import ray_env
from orchestrator.config import load, surroundings
from orchestrator.driver.driver_host import MOST_BYTES, READY, DriverWords, Forked
from orchestrator.errors import ClusterError, OrchestratorError

_OF_DRIVERS = (
    "orchestrator.cli.cli",
    "orchestrator.cli.show.run_view",
    "orchestrator.config.composing",
    "orchestrator.driver.run",
    "orchestrator.cluster.gauges",
    "orchestrator.cluster.group",
    "orchestrator.cluster.session",
    "orchestrator.cli.queued_driver",
    "rich.status",
    # Ray imports these when it connects and with the first value that it sends, where they are installed;
    # here they are in memory once for all drivers. It imports pyarrow, too, which starts a thread: a process
    # with one is better not forked.
    "cloudpickle",
    "google.protobuf.descriptor_pb2",
    "numpy",
    "pydantic.main",
    "pydantic.types",
    "pydantic.v1",
    "ray._common.pydantic_compat",
    "ray._common.usage.usage_lib",
    "ray.util.metrics",
    "starlette.datastructures",
    "zoneinfo",
)
# Numpy's algebra would start a thread for each further core when it is imported.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def main(channel: socket.socket, address: str) -> int:
    """Serve until nobody is at the other end; returns the exit code, in a driver the driver's."""
    surroundings.settle()
    sha256 = own_sha256()
    with contextlib.suppress(ClusterError):  # a token that others may read: each driver says so
        ray_env.prepare_to_attach(address)
    gc.disable()  # what it frees are holes in pages, and what is forked fills these with copies of its own
    _import_all()
    _compose_once()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them, who asks has a descriptor
    channel.send(READY)
    while True:
        told, fds, _, _ = socket.recv_fds(channel, MOST_BYTES, 1)
        if not told:
            return 0
        if own_sha256() != sha256:
            _answer(channel, Forked(None, "our code has changed on the disk"))
            return 0
        (log,) = fds
        pid = os.fork()
        if pid == 0:
            gc.enable()
            channel.close()
            return _driver(DriverWords(**json.loads(told)), log)
        os.close(log)
        _answer(channel, Forked(pid), pid)


def _import_all() -> None:
    environment = dict(os.environ)
    os.environ.update(_ONE_THREAD)
    for name in _OF_DRIVERS:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for name in _ONE_THREAD:  # what is forked has the environment that it was given
        os.environ.pop(name)
        if name in environment:
            os.environ[name] = environment[name]


def _compose_once() -> None:
    """Hydra looks for its plugins, and its parser learns its grammar, at the first time."""
    from orchestrator.config.composing import composed

    load.register()
    with contextlib.suppress(OrchestratorError):
        # Nothing here asks for the GPUs of this machine: what is forked is to look for itself.
        composed(["gpu=cpu", "cluster.cpu_threads_per_rank=1"])


def _answer(channel: socket.socket, forked: Forked, pid: int | None = None) -> None:
    fds = []
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        fds = [os.pidfd_open(pid)] if pid is not None else []
    socket.send_fds(channel, [json.dumps(asdict(forked)).encode()], fds)
    for descriptor in fds:
        os.close(descriptor)


def _driver(wanted: DriverWords, log: int) -> int:
    """What an interpreter of its own would do, from here on."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.chdir(wanted.cwd)
    os.environ.update(wanted.environment)
    sys.argv = [sys.argv[0], *wanted.words]
    setproctitle.setproctitle(" ".join([sys.executable, "-m", wanted.module, *wanted.words]))
    try:
        runpy.run_module(wanted.module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    return 0


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]))
