"""The part of the schema that says where checkpoints are staged, and which are kept and trusted."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.ranges import BytesOr0, CountOr0, Hours, Seconds


@dataclass
class SnapshotConfig:
    """How checkpoints are staged in memory, written out behind the training and kept."""

    enabled: bool = True  # false leaves save_checkpoint and load_checkpoint to DeepSpeed alone
    # where to stage, the first with room for two generations: folders in memory or on a local disk, or
    # durable: not staged, the training waits for the disk
    dirs: list[str] = field(default_factory=lambda: ["/dev/shm", "durable"])
    keep: CountOr0 = 2  # committed checkpoints to keep; 0 keeps all
    keep_hours: Hours | None = None  # and those that are younger than this
    # folders whose checkpoints are loaded though no manifest names them: loading runs what a pickle says
    trusted: list[str] = field(default_factory=list)
    # types, by module and name, that may be loaded from a checkpoint which is not this run's own work
    allow_types: list[str] = field(default_factory=list)
    # for so long a node of a kept cluster holds in memory what a run has staged there, once the run has left
    # it: one that comes back within that goes on from it. 0 holds nothing
    park_s: Seconds = 3600.0
    # of a node's memory, that runs which have left it may hold so together; null is half of what it has
    park_bytes: BytesOr0 | None = None
    # a file with a secret by which manifests are signed: a checkpoint that is not signed with it is not
    # loaded. null draws a key for each run
    key_file: str | None = None
