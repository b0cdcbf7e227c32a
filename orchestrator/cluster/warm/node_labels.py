"""The labels that a node of ours gets in Ray: where it is, as the job manager that started it says."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.topology.files import labels_of_job

# What Ray takes for the value of a label; Slurm writes several switches at one level as s[1-2].
_VALUE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")


def labels_here(environment: Mapping[str, str]) -> str:
    """As ``ray start --labels`` takes them; empty outside of Slurm, and where that knows no topology."""
    address = environment.get("SLURM_TOPOLOGY_ADDR", "")
    found = labels_of_job(address, environment.get("SLURM_TOPOLOGY_ADDR_PATTERN", ""))
    return ",".join(f"{name}={value}" for name, value in found.items() if _VALUE.fullmatch(value))
