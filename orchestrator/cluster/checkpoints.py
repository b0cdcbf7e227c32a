"""The driver's hand on checkpoints, wherever the nodes keep them: commit, choose, lay out.

Nodes do what is slow or local; this says when. Nothing here waits while ranks run, except for
:meth:`Checkpoints.choose` and :meth:`Checkpoints.lay_out`, which are called between attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.agent.assignment import Assignment
from orchestrator.agent.messages import FromWriter, RankUnstaged, WriterFreed, WriterHeld
from orchestrator.checkpoint.commits import (
    Commit,
    Earlier,
    Held,
    PartDurable,
    PartGivenUp,
    Restore,
    Snapshots,
)
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.own_folder import is_own_folder
from orchestrator.checkpoint.world_size import loads_any_number
from orchestrator.cluster.committed import Committed
from orchestrator.cluster.nodes import Node, Nodes
from orchestrator.cluster.ray_errors import reason
from orchestrator.errors import ManifestError
from orchestrator.events import (
    CheckpointSaved,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Event,
    RestoreSource,
    SnapshotCommitted,
    StagingUnavailable,
)

# Attempts of another run may have left something in a checkpoint directory, with any number.
ALL_ATTEMPTS = 1 << 30
_CHUNK_BYTES = 32 << 20
_AGAIN_S = 1.0
_MISSING_S = 60.0


@dataclass
class _Publishing:
    commit: Commit
    answers: list[Any] = field(default_factory=list)
    not_before_s: float = 0.0
    held_since_s: float | None = None


class Checkpoints:
    """One per run; ``nodes`` are the group's, ``earlier`` is of the drivers before."""

    def __init__(self, assignment: Assignment, nodes: Nodes, earlier: Earlier | None = None) -> None:
        self._assignment = assignment
        self._held = nodes
        self._ask = nodes.ask
        self._pending: list[Event] = []
        self.snapshots = Snapshots(
            assignment.run,
            assignment.ranks.world_size,
            [assignment.places.checkpoint_dir],
            loads_any_number(assignment.program.deepspeed),
            earlier,
        )
        self._publishing: list[_Publishing] = []
        self._disk = Committed(nodes, self.snapshots)

    @property
    def _nodes(self) -> list[Node]:
        return self._held.all

    def take_events(self) -> list[Event]:
        """What happened while an attempt was prepared."""
        events, self._pending = self._pending, []
        return events

    def forget(self) -> None:
        """A node's agent is gone: nothing on its way will arrive."""
        for one in self._publishing:  # where it has got its name all the same, that is found on the disk
            self.snapshots.unnamed(one.commit)
        self._publishing.clear()
        self.snapshots.lost_node()

    def receive(self, node: Node, part: FromWriter, now_s: float) -> list[Event]:
        """What a node's writer said."""
        match part:
            case PartDurable():
                commit = self.snapshots.durable(part, now_s)
                if commit is not None:
                    self._publishing.append(_Publishing(commit))
            case PartGivenUp():
                self.snapshots.given_up(part)
                return [
                    CheckpointWriteBlocked(
                        node.name, f"checkpoint {part.part.tag} is given up: {part.reason}"
                    )
                ]
            case WriterHeld():
                return [CheckpointWriteBlocked(node.name, part.reason)]
            case RankUnstaged():
                return [StagingUnavailable(node.name, part.rank, part.reason)]
            case WriterFreed():
                return [CheckpointWriteResumed(node.name, part.held_s)]
        return []

    def saved(self, event: CheckpointSaved, now_s: float) -> None:
        """All ranks have staged a checkpoint."""
        self.snapshots.staged(event, now_s)

    def busy(self) -> bool:
        """Whether a checkpoint that all ranks have staged is not committed yet."""
        return bool(self._publishing or self.snapshots.awaited())

    def poll(self, now_s: float) -> list[Event]:
        """Give their names to checkpoints of which all parts are durable, in the order in which they became
        so."""
        if not self._publishing or now_s < self._publishing[0].not_before_s:
            return []
        first = self._publishing[0]
        if not first.answers:
            first.answers = self._publish(first.commit)
        ready, waiting = ray.wait(first.answers, num_returns=len(first.answers), timeout=0)
        if waiting:
            return []
        try:
            paths = ray.get(ready)
        except RayTaskError as error:  # a full disk, mostly: what is durable stays, only the name is missing
            first.answers, first.not_before_s = [], now_s + _AGAIN_S
            if first.held_since_s is not None:
                return self._perhaps_given_up(first, error, now_s)
            first.held_since_s = now_s
            return [CheckpointWriteBlocked(self._nodes[0].name, reason(error))]
        except RayActorError:
            self.snapshots.unnamed(first.commit)
            del self._publishing[0]  # the agent is lost: the attempt fails anyway
            return []
        del self._publishing[0]
        held = (
            []
            if first.held_since_s is None
            else [CheckpointWriteResumed(self._nodes[0].name, now_s - first.held_since_s)]
        )
        one = first.commit.manifest
        self._prune(first.commit)
        committed = SnapshotCommitted(
            one.attempt, one.step, one.tag, paths[0], one.total_bytes, first.commit.write_s
        )
        return [*held, committed]

    def _perhaps_given_up(self, first: _Publishing, error: RayTaskError, now_s: float) -> list[Event]:
        """Files that are missing may show up late, on a file system that caches; then never. Others wait
        behind."""
        if not isinstance(getattr(error, "cause", None), ManifestError) or first.held_since_s is None:
            return []
        if now_s - first.held_since_s < _MISSING_S:
            return []
        self._publishing.remove(first)
        self.snapshots.unnamed(first.commit)
        tag = first.commit.manifest.tag
        return [CheckpointWriteBlocked(self._nodes[0].name, f"checkpoint {tag} is given up: {reason(error)}")]

    def choose(self, before: int | None, wait_s: float, listen: Callable[[], list[Event]]) -> Restore | None:
        """What the next attempt goes on from: memory before disk, the newest first, and only what verifies.

        ``before`` rules out a step and all after it, for good. A script looks for `latest` before it loads;
        so the first checkpoint of a run is waited for until it has its name, ``wait_s`` at most; ``listen``
        is called meanwhile, to hear the nodes.
        """
        if before is not None:
            self._pending += self._reject(before, f"the run has gone back before step {before}")
        self._pending += self._disk.doubted()
        self._disk.find_places()
        while True:
            holdings: list[Held] = [held for node in self._nodes for held in self._ask(node, "holdings")]
            committed = self._disk.committed()
            self._pending += self._disk.passed_over() + self._disk.misfits(committed)
            self.snapshots.found_committed(committed)
            held_there, committed = self._in_main_folder(holdings, committed)
            memory = self.snapshots.from_memory(held_there, before)
            disk = self.snapshots.from_disk(committed, before)
            if memory is not None and (disk is None or memory.step >= disk.step):
                self.snapshots.adopt(memory, time.monotonic())
                if not committed:
                    self._have_named(memory, wait_s, listen)
                elif memory.save_dir != self.snapshots.save_dirs[0]:  # the script looks for its files there
                    self._have_named(memory, wait_s, listen, memory.tag)
                if (torn := self._torn_around(memory)) is None:
                    return memory
                self._pending += self._reject(memory.step, torn)
                continue
            if disk is None:
                self._disk.refuse_misfits(committed, before)
                return None
            files = "; ".join(f"{name} {what}" for name, what in self._verify(disk).items())
            wrong = files or self._torn_around(disk)
            if wrong is None:
                return replace(disk, unvouched=self._disk.why_not_vouched(disk))
            self._pending.append(self._disk.quarantine(disk, wrong))

    def _in_main_folder(
        self, holdings: list[Held], committed: list[tuple[str, Manifest]]
    ) -> tuple[list[Held], list[tuple[str, Manifest]]]:
        """Without what a script keeps elsewhere, its best weights for instance: it loads from the folder that
        it was given. All of it where that folder is not used."""
        main = self.snapshots.save_dirs[0]
        here = (
            [held for held in holdings if held.part.dir == main],
            [one for one in committed if one[0] == main],
        )
        return here if any(here) else (holdings, committed)

    def lay_out(self, restore: Restore | None) -> None:
        """Have every node put in place what its ranks will read, and carry over what it lacks."""
        lacking = [(node, self._ask(node, "lay_out", restore)) for node in self._nodes]
        for node, names in lacking:
            for name in names:
                assert restore is not None
                self._carry(restore, name, node)

    def tidy(self, attempt: int) -> None:
        """Remove what older attempts left unfinished."""
        on_its_way = [key.tag for key in self.snapshots.on_their_way()]
        on_its_way += [one.commit.manifest.tag for one in self._publishing]
        for node in self._disk.owners():
            for folder in self.snapshots.save_dirs:
                self._ask(node, "tidy", folder, attempt, on_its_way)

    def tidy_up(self, finished: bool) -> None:
        """At the end: leave nothing unfinished, nor parked of a run that has ``finished``; not waited for."""
        for node in self._nodes if finished else ():
            node.agent.finish.remote()
        for node in self._disk.owners():
            for folder in self.snapshots.save_dirs:
                node.agent.tidy.remote(folder, ALL_ATTEMPTS, [])

    def _publish(self, commit: Commit) -> list[Any]:
        key = bytes.fromhex(self._assignment.secrets.signing.key)
        return [
            node.agent.publish.remote(
                commit.save_dir,
                self._part_of(commit.manifest, node).signed(key).to_json(),
                commit.save_latest,
            )
            for node in self._disk.owners()
        ]

    def _part_of(self, manifest: Manifest, node: Node) -> Manifest:
        """All of it, or where nodes have folders of their own, what this node's ranks wrote."""
        if self._held.shared_checkpoints:
            return manifest
        first = node.index * self._assignment.ranks.per_node
        ranks = range(first, first + self._assignment.ranks.per_node)
        return manifest.of_ranks(ranks)

    def _prune(self, commit: Commit) -> None:
        keep, hours = self._assignment.snapshot.keep, self._assignment.snapshot.keep_hours
        for node in self._disk.owners():
            node.agent.prune.remote(commit.save_dir, keep, hours)

    def _verify(self, restore: Restore) -> dict[str, str]:
        """What is wrong with its files, by name; every node hashes a share."""
        names = sorted(restore.files)
        if self._held.shared_checkpoints:
            shares = [names[node.index :: len(self._nodes)] for node in self._nodes]
        else:
            shares = [
                [name for name in names if self._holder(restore, name) == node.index] for node in self._nodes
            ]
        wrong: dict[str, str] = {}
        asked = [
            (node, node.agent.verify.remote(restore.save_dir, restore.tag, share))
            for node, share in zip(self._nodes, shares, strict=True)
            if share
        ]
        for node, answer in asked:
            wrong |= self._ask(node, answer)
        return wrong

    def _torn_around(self, restore: Restore) -> str | None:
        """What the script was writing around a checkpoint of this run when a rank died, where that has a
        folder of its own: no attempt could begin from it."""
        if not self.is_alone(restore) or not self._disk.is_of_this_run(restore):
            return None
        owners, shared = self._disk.owners(), self._held.shared_checkpoints
        asked = (self._ask(node, "torn_around", restore.save_dir, restore.tag, shared) for node in owners)
        return next((why for why in asked if why is not None), None)

    def _reject(self, before: int, why: str) -> list[Event]:
        """Take a step and what followed it out of memory and off the list."""
        self.snapshots.rejected(before)
        self._publishing = [one for one in self._publishing if one.commit.manifest.step < before]
        for node in self._nodes:
            self._ask(node, "forget", before)
        poisoned = [
            Restore(RestoreSource.DISK, one.attempt, one.step, one.tag, folder, {})
            for folder, one in self._disk.committed()
            if one.step >= before
        ]
        return [self._disk.quarantine(one, why) for one in poisoned]

    def clear_way(self, restore: Restore | None) -> None:
        """Let a script that looks for its newest folder by itself find what was chosen."""
        if restore is None or self.is_alone(restore):
            self._pending += self._disk.clear_way(restore)

    def is_alone(self, restore: Restore) -> bool:
        """Whether it has a folder of its own, with what the script has put around it."""
        tags = [one.tag for folder, one in self._disk.committed() if folder == restore.save_dir]
        main = Path(self.snapshots.save_dirs[0])
        return is_own_folder(Path(restore.save_dir), main, restore.tag, restore.step, tags)

    def _have_named(
        self, memory: Restore, wait_s: float, listen: Callable[[], list[Event]], tag: str | None = None
    ) -> None:
        """Have what is in memory written, and wait until a checkpoint has been committed: this one, or
        any."""
        if not memory.committed:
            for node in self._nodes:
                self._ask(node, "write_out", memory)
        deadline_s = time.monotonic() + wait_s
        while self.busy() and time.monotonic() < deadline_s:
            heard = listen()
            self._pending += heard
            names = [event.tag for event in heard if isinstance(event, SnapshotCommitted)]
            if names and tag in (None, *names):
                return

    def _holder(self, restore: Restore, name: str) -> int:
        """The node that a file can be had from: its writer's, unless it lies on another one's disk."""
        disks = self._disk.disks.get((restore.save_dir, restore.attempt, restore.tag), {})
        writer = restore.files[name].rank // self._assignment.ranks.per_node
        return disks.get(name, writer) if restore.source == RestoreSource.DISK else writer

    def _carry(self, restore: Restore, name: str, to: Node) -> None:
        """A file that a node's ranks read, from the node that has it; not by way of us."""
        part = restore.files[name]
        source = self._nodes[self._holder(restore, name)]
        path = part.memory.path if part.memory else f"{restore.save_dir}/{restore.tag}/{name}"
        start, size = (part.memory.offset if part.memory else 0), part.bytes
        last = None
        for offset in range(0, max(size, 1), _CHUNK_BYTES):
            stretch = source.agent.give.remote(path, start + offset, min(_CHUNK_BYTES, size - offset))
            last = to.agent.take.remote(name, stretch, part.memory, offset == 0)
        self._ask(to, last)
