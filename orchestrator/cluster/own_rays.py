"""Which Ray `auto` means: one of ours on this machine. Imports no Ray.

Ray's own search takes any Ray that runs here, a stranger's too, and shows it our token.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

from orchestrator.errors import ClusterUnreachable

_GCS = "--gcs-address="
_ROOT = 0


def auto_address(kept_address: str | None) -> str:
    """The cluster that ``up`` keeps, else the only one whose node runs here as our user, or as root for
    everybody.

    Raises :class:`ClusterUnreachable` where there is none, or more than one.
    """
    if kept_address is not None:
        return kept_address
    ours, others = addresses_here()
    if len(ours) == 1:
        return ours.pop()
    if ours:
        raise ClusterUnreachable(
            f"ray_address=auto: several run here, {', '.join(sorted(ours))}; name one of them"
        )
    theirs = "; that of another user is not taken" if others else ""
    raise ClusterUnreachable(
        f"ray_address=auto: no Ray of yours runs on this machine{theirs}; give host:port, or leave"
        " ray_address out"
    )


def addresses_here(processes: Iterable[psutil.Process] | None = None) -> tuple[set[str], set[str]]:
    """Of the clusters that have a node on this machine: those of our user or root, and those of others."""
    ours: set[str] = set()
    others: set[str] = set()
    for process in psutil.process_iter() if processes is None else processes:
        try:
            if process.name() == "raylet":
                found = {arg.removeprefix(_GCS) for arg in process.cmdline() if arg.startswith(_GCS)}
                (ours if process.uids().real in (os.getuid(), _ROOT) else others).update(found)
        except psutil.Error:
            continue
    return ours, others - ours
