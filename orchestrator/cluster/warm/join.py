"""``python -m orchestrator.cluster.warm.join HOST:PORT --cpus=N --gpus=N``: this machine as a node of a Ray
that ``up`` started elsewhere, for as long as that one is there.

Ray's own ``ray start --address`` leaves its processes to a ``ray stop``, which ends every Ray of the user on
the machine, and takes ports that a second Ray has already. Here the node has ports and a folder of its own,
does not hear the signals that ask a run to stop (its ranks need it until they have saved), and is gone, with
its folder, within seconds of the head. Imports no Ray.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from orchestrator.cluster.ray_env import HEAD_SETTINGS
from orchestrator.cluster.ray_folder import RayFolder, ray_folder
from orchestrator.cluster.warm.head import ray_program, stop_session
from orchestrator.cluster.warm.node_labels import labels_here
from orchestrator.errors import ClusterError, OrchestratorError

# What a job manager sends to every process of a job.
UNHEARD = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_LOOK_S, _CONNECT_S = 1.0, 5.0
# All nodes of a job start at once, some on machines that others keep busy: Ray gives each half a minute.
_SETTINGS = {"RAY_raylet_start_wait_time_s": "180"}
# A port that is refused may be one whose queue is full for a moment.
_REFUSALS = 3


def join(address: str, cpus: int, gpus: int, labels: str = "") -> int:
    """Be a node until the head is gone, or this node's Ray is; returns the exit code of that one.

    Raises :class:`ClusterError` where no Ray can be started here.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
    with ray_folder() as folder:
        node = _start(address, cpus, gpus, labels, folder)
        refusals = 0
        try:
            while (code := node.poll()) is None and refusals < _REFUSALS:
                time.sleep(_LOOK_S)
                refusals = refusals + 1 if _refuses(address) else 0
        finally:
            stop_session(node.pid)
            node.wait()
    return code or 0


def _start(address: str, cpus: int, gpus: int, labels: str, folder: RayFolder) -> subprocess.Popen[bytes]:
    command = [ray_program(), "start", f"--address={address}", "--block", f"--temp-dir={folder.path}"]
    command += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--dashboard-agent-listen-port=0"]
    command += ["--include-log-monitor=false", "--log-style=record", "--log-color=false"]
    labels = labels or labels_here(os.environ)
    command += [f"--labels={labels}"] if labels else []
    environment = {**HEAD_SETTINGS, **_SETTINGS, **os.environ, "RAY_AUTH_MODE": "token"}
    return subprocess.Popen(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, start_new_session=True,
        pass_fds=(folder.lock_fd,),
    )  # fmt: skip


def _refuses(address: str) -> bool:
    """Whether nobody listens there any more. A machine that does not answer at all may come back, and Ray
    itself gives it its time."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.cluster.warm.join", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT", help="of the head's control store, as 'up' prints it")
    parser.add_argument("--cpus", type=int, required=True, help="that this node gives")
    parser.add_argument("--gpus", type=int, default=0, help="that this node gives")
    parser.add_argument(
        "--labels", default="", help="of the node, as 'ray start' takes them; else Slurm's switches"
    )
    given = parser.parse_args(argv)
    try:
        if not given.address.rpartition(":")[2].isdigit():
            raise ClusterError(f"{given.address}: is not HOST:PORT, as 'up' prints it")
        return join(given.address, given.cpus, given.gpus, given.labels)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
