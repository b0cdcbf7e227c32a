"""The keys of ``kueue``, and what of them is refused: how dear a run is to stop, told to Kueue while it goes
on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from orchestrator.config.ranges import Factor, Range
from orchestrator.errors import ConfigError

# Where Kubernetes puts what a pod may show its API server.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
NODE_NAME = "ORCHESTRATOR_NODE_NAME"  # in which the manifest tells a pod the name of its node
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# What Kueue adds is a whole number of 32 bits.
Boost = Annotated[int, Range(1, 2**31 - 1, 1000)]


class PriorityBoost(Enum):
    """Where Kueue reads it: nowhere, in an annotation of the Workload (0.17 to 0.19, with its feature gate
    PriorityBoost), or in a field of it (from 0.20 on, with PriorityBoostWithScopedPreemption)."""

    off = "off"
    annotation = "annotation"
    field = "field"


@dataclass
class KueueConfig:
    """What a run on Kubernetes tells Kueue: what would be lost if it were stopped now."""

    # add the unsaved dollars to the priority of the run's Workload, at most once a minute
    priority_boost: PriorityBoost = PriorityBoost.off
    job: str | None = None  # the RayJob or RayCluster of which the Workload is; `export` sets it
    boost_per_usd: Factor = 1.0  # priority for each dollar of work that is not saved
    most_boost: Boost = 1000  # so much priority at most


def check_kueue(kueue: KueueConfig, usd_per_gpu_hour: float, environment: Mapping[str, str]) -> None:
    """Raises :class:`ConfigError` where nobody would be told. Whether the API server answers is not asked:
    a run does not wait for it."""
    if kueue.priority_boost is PriorityBoost.off:
        return
    key = f"kueue.priority_boost={kueue.priority_boost.value}"
    if not environment.get(HOST) or not (SERVICE_ACCOUNT / "token").is_file():
        missing = (
            f"{HOST} is not set" if not environment.get(HOST) else f"{SERVICE_ACCOUNT}/token is not there"
        )
        raise ConfigError(
            f"{key}: is for a pod of Kubernetes with a service account, and {missing}; leave it out here, and"
            " see 'export format=kuberay' for what gives the head one"
        )
    if kueue.job is None:
        raise ConfigError(
            "kueue.job: no value given; name the RayJob or RayCluster that Kueue has admitted, as 'kubectl"
            " get workloads' shows it, e.g. kueue.job=llama3-8b"
        )
    check_job_name(kueue.job)
    if usd_per_gpu_hour <= 0:
        raise ConfigError(
            f"{key}: adds dollars that are not saved, and this cluster costs none; set what its hours are"
            " worth, e.g. cluster.price.usd_per_gpu_hour=2"
        )


def check_job_name(name: str) -> None:
    """Raises :class:`ConfigError` for what Kubernetes gives no object as a name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"kueue.job={name!a}: is no name of an object of Kubernetes; e.g. kueue.job=llama3-8b"
        )
