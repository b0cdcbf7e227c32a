"""The events of checkpoints: saved, given their name, loaded, left out. Others take them from
:mod:`~orchestrator.events`, which has all."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.event import Event


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """All ranks of the attempt finished saving; the training stood still for ``stall_s``. A ``staged`` one
    exists on the disk with its :class:`SnapshotCommitted` only."""

    attempt: int
    step: int
    tag: str
    path: str
    stall_s: float
    staged: bool = False


@dataclass(frozen=True)
class CheckpointLoaded(Event):
    """All ranks of the attempt loaded the same step."""

    attempt: int
    step: int
    tag: str
    path: str
    seconds: float


@dataclass(frozen=True)
class SnapshotCommitted(Event):
    """Every part of a checkpoint is durable and its name is in place; ``write_s`` after it was staged."""

    attempt: int
    step: int
    tag: str
    path: str
    snapshot_bytes: int
    write_s: float


@dataclass(frozen=True)
class SnapshotQuarantined(Event):
    """A checkpoint that was committed is not loaded any more: ``reason`` says which file, or which step it
    followed."""

    step: int
    tag: str
    path: str
    reason: str


@dataclass(frozen=True)
class SnapshotPassedOver(Event):
    """A folder looks like a checkpoint and cannot be taken for one: ``reason`` says what is wrong with its
    manifest. It stays where it is. Told once by each driver, when it looks for one to load."""

    tag: str
    path: str
    reason: str


@dataclass(frozen=True)
class SnapshotDoubted(Event):
    """Others could change what is committed in the run's folder: a checkpoint that is loaded from there may
    hold known types alone. Told once by each driver, before its first attempt; ``reason`` says who could."""

    path: str
    reason: str


@dataclass(frozen=True)
class CheckpointWriteBlocked(Event):
    """A node cannot write its checkpoint out, a full disk for instance; it tries again until it can."""

    node: str
    reason: str


@dataclass(frozen=True)
class StagingUnavailable(Event):
    """A rank found no room in memory, so that its checkpoints go to the disk while the training waits."""

    node: str
    rank: int
    reason: str


@dataclass(frozen=True)
class CheckpointWriteResumed(Event):
    """The node could write again after ``held_s``."""

    node: str
    held_s: float
