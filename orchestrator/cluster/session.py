"""Attach to a Ray cluster, or start a local one that ends with this process."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.errors import ClusterUnreachable

NAMESPACE = "orchestrator"

# Read by Ray's own processes when a cluster starts here. The memory monitor would kill the agent,
# not the rank that grew. Token authentication is not here: a local ray.init turns it on by itself
# and writes the token, but refuses to start when it is told to and finds none.
_LOCAL_SETTINGS = {"RAY_memory_monitor_refresh_ms": "0", "RAY_USAGE_STATS_ENABLED": "0"}
# Ray would otherwise hide the GPUs of actors that ask for none, and warn about it.
_CLIENT_SETTINGS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Session:
    """A connection to Ray. ``local`` means that the cluster is ours and ends with us."""

    address: str
    dashboard_url: str | None
    local: bool


@contextmanager
def connect(address: str | None, cpus: int, dashboard: bool) -> Iterator[Session]:
    """Join the cluster at ``address`` (``host:port`` or ``auto``), or start one with ``cpus`` logical CPUs.

    A cluster started here has token authentication on and its dashboard on loopback.
    Raises :class:`ClusterUnreachable`.
    """
    os.environ.update(_CLIENT_SETTINGS)
    if address is None:
        os.environ.update({k: v for k, v in _LOCAL_SETTINGS.items() if k not in os.environ})
        with _sessions_of_their_own():
            context = _init(None, num_cpus=cpus, include_dashboard=dashboard, dashboard_host="127.0.0.1")
    else:
        context = _init(address)
    try:
        url = context.dashboard_url
        yield Session(context.address_info["address"], f"http://{url}" if url else None, local=address is None)
    finally:
        ray.shutdown()


def _init(address: str | None, **settings: Any) -> Any:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": NAMESPACE}
    try:
        return ray.init(address or "local", **quiet, **settings)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
    if address is None:
        raise ClusterUnreachable(f"a local Ray cluster did not start: {reason}")
    raise ClusterUnreachable(
        f"ray_address={address}: {reason}; is Ray running there ('ray start --head'), and if it asks for a token, "
        "is RAY_AUTH_MODE=token set here, with its token in RAY_AUTH_TOKEN or ~/.ray/auth_token?"
    )


@contextmanager
def _sessions_of_their_own() -> Iterator[None]:
    """Processes that start meanwhile lead a session each.

    Ray would leave its own in our process group, and a SIGTERM or Ctrl-C for the group (a terminal,
    ``timeout``, a container) would take the cluster away while the ranks still save.
    """
    original = subprocess.Popen.__init__

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{"start_new_session": True, **kwargs})

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = original  # type: ignore[method-assign]
