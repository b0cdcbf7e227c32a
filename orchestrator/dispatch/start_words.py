"""The words of our own command line with which a job is started where the books say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.fleet_file import PoolEntry
from orchestrator.errors import ConfigError


def shape_words(gpus: int, gpus_per_node: int) -> tuple[str, ...]:
    """How a gang lies on nodes: on one, or on whole ones.

    Raises :class:`ConfigError` for one that would need a node in part beside whole ones.
    """
    if gpus <= gpus_per_node:
        return ("cluster.nodes=1", f"cluster.gpus_per_node={gpus}")
    if gpus % gpus_per_node:
        lower = gpus - gpus % gpus_per_node
        raise ConfigError(
            f"cluster.nodes × cluster.gpus_per_node is {gpus}: more than a node of the pool has"
            f" ({gpus_per_node}), and no whole number of nodes; choose {lower} or {lower + gpus_per_node}"
        )
    return (f"cluster.nodes={gpus // gpus_per_node}", f"cluster.gpus_per_node={gpus_per_node}")


def start_words(entry: Entry, there: PoolEntry, node_ids: Sequence[str], run_root: Path) -> tuple[str, ...]:
    """Those of the pool, of the job, and of this start on these nodes.

    Raises :class:`ConfigError` for a gang that does not lie on nodes of the pool any more.
    """
    placement = entry.job.placement
    assert placement is not None, "what starts has a placement"
    own = (
        *shape_words(sum(placement.gpus), there.pool.gpus_per_node),
        *address_words(there),
        f"run_root={run_root}",
        f"run_name={entry.job.run_name}",
        "job.resume=auto",
        f"launch.node_ids=[{','.join(node_ids)}]",
    )
    return joined(there.words, entry.job.spec.overrides, own)


def address_words(there: PoolEntry) -> tuple[str, ...]:
    """Of a pool on a Ray of its own where that is."""
    return (f"ray_address={there.ray_address}",) if there.ray_address else ()


def joined(before: tuple[str, ...], job: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a job with others around them; the command of the job, if it has one, stays the last."""
    place = job.index("--") if "--" in job else len(job)
    return (*before, *job[:place], *after, *job[place:])
