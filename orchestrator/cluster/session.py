"""Attach to a Ray cluster, or start a local one that ends with this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

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
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": NAMESPACE}
    if address is None:
        os.environ.update({k: v for k, v in _LOCAL_SETTINGS.items() if k not in os.environ})
        context = ray.init("local", num_cpus=cpus, include_dashboard=dashboard, dashboard_host="127.0.0.1", **quiet)
    else:
        try:
            context = ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ClusterUnreachable(
                f"ray_address={address}: {reason}; start Ray there with 'ray start --head', "
                "or leave ray_address out to use a local cluster"
            ) from None
    try:
        url = context.dashboard_url
        yield Session(context.address_info["address"], f"http://{url}" if url else None, local=address is None)
    finally:
        ray.shutdown()
