"""Snapshots as the driver sees them: which are whole, which may be committed, from which to go on. Pure.

Ranks stage, writers write, and only here is it decided that a checkpoint exists. An attempt's checkpoint is
part of the run's history as long as every later attempt went on from its step or a later one; one that a
later attempt went back before is stale, whatever its writers still bring.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.checkpoint.laid_out import InMemory
from orchestrator.checkpoint.manifest import FilePart, Manifest
from orchestrator.checkpoint.world_size import misfit
from orchestrator.events import CheckpointSaved, RestoreSource


@dataclass(frozen=True)
class Key:
    """What names a checkpoint: two attempts may use the same tag, and a script several folders."""

    attempt: int
    save_dir: str
    tag: str


@dataclass(frozen=True)
class RankPart:
    """Names one rank's part of a checkpoint; ``dir`` is the folder in which the script keeps them."""

    attempt: int
    step: int
    dir: str
    tag: str
    rank: int
    save_latest: bool

    @property
    def key(self) -> Key:
        """Names the checkpoint that it is a part of."""
        return Key(self.attempt, self.dir, self.tag)


@dataclass(frozen=True, slots=True)
class PartDurable:
    """A rank's files are on the disk; writing them took so many seconds."""

    part: RankPart
    files: dict[str, FilePart]
    seconds: float


@dataclass(frozen=True, slots=True)
class PartGivenUp:
    """A rank's files cannot be written."""

    part: RankPart
    reason: str


@dataclass
class _Pending:
    """A checkpoint on its way to the disk."""

    step: int
    staged_s: float | None = None
    given_up: bool = False
    parts: dict[int, dict[str, FilePart]] = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """A checkpoint of which all parts are durable: to be given its name. ``write_s`` after it was staged."""

    save_dir: str
    manifest: Manifest
    save_latest: bool
    write_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A rank's part of a checkpoint, whole in the slot of this path; ``written`` says that it is on the disk
    too, ``parked`` that the node's keeper has kept it since an earlier agent ended."""

    part: RankPart
    slot: str
    written: bool
    files: dict[str, InMemory]
    parked: bool = False


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """A file to go on from: the rank that wrote it, and where it lies in that rank's memory, None where it
    lies on a disk."""

    rank: int
    bytes: int
    memory: InMemory | None = None


@dataclass(frozen=True)
class Restore:
    """What an attempt goes on from, and its files by name. ``committed``: it has its name on the disk, or is
    about to get it, so that nobody has to write it."""

    source: RestoreSource
    attempt: int
    step: int
    tag: str
    save_dir: str
    files: dict[str, RestoredFile]
    unvouched: str | None = None  # why a disk's may be somebody else's
    committed: bool = False

    @property
    def in_memory(self) -> bool:
        """Whether it lies in the memory of the nodes."""
        return self.source is not RestoreSource.DISK

    @property
    def key(self) -> Key:
        """Names the checkpoint."""
        return Key(self.attempt, self.save_dir, self.tag)


@dataclass(frozen=True)
class Earlier:
    """What the journal knows of the attempts of earlier drivers, by their numbers: the step from which each
    went on, and the last that it was heard of."""

    went_on_from: Mapping[int, int] = field(default_factory=dict)
    heard: Mapping[int, int] = field(default_factory=dict)


class Snapshots:
    """One per run. ``save_dirs`` are the folders in which committed checkpoints are looked for;
    ``any_number`` says that DeepSpeed is asked to load what another number of ranks has written."""

    def __init__(
        self,
        run: str,
        world_size: int,
        save_dirs: Iterable[str],
        any_number: bool = False,
        earlier: Earlier | None = None,
    ) -> None:
        self.run = run
        self.world_size = world_size
        self.any_number = any_number
        self.save_dirs = [os.path.abspath(folder) for folder in save_dirs]
        self._pending: dict[Key, _Pending] = {}
        self._committed: set[tuple[Key, int]] = set()  # with the step: a script may use a tag again
        self._went_on_from = dict(earlier.went_on_from) if earlier else {}
        self._heard = dict(earlier.heard) if earlier else {}
        self._last_attempt = 0

    def started(self, attempt: int, restore: Restore | None) -> None:
        """An attempt goes on from here; what is stale by that is forgotten."""
        self._last_attempt = attempt
        self._went_on_from[attempt] = restore.step if restore else 0
        self._pending = {
            key: one
            for key, one in self._pending.items()
            # What not all ranks have staged before their attempt ended will never be whole.
            if self._in_history(key.attempt, one.step)
            and (key.attempt == attempt or one.staged_s is not None)
        }

    def heard(self, attempt: int, step: int) -> None:
        """All ranks of the attempt have done this step, and what they said of it is known."""
        self._heard[attempt] = max(step, self._heard.get(attempt, 0))

    def staged(self, saved: CheckpointSaved, now_s: float) -> None:
        """All ranks have saved. Where it is staged, its parts are on their way to the disk."""
        self.heard(saved.attempt, saved.step)
        if saved.staged:
            self._pending_of(Key(saved.attempt, saved.path, saved.tag), saved.step).staged_s = now_s

    def adopt(self, restore: Restore, now_s: float) -> None:
        """Gone on from, in memory: it is whole, whether or not all ranks could still say so."""
        if restore.in_memory and (restore.key, restore.step) not in self._committed:
            pending = self._pending_of(restore.key, restore.step)
            pending.staged_s = now_s if pending.staged_s is None else pending.staged_s
            pending.given_up = False  # the nodes try again

    def durable(self, news: PartDurable, now_s: float) -> Commit | None:
        """A rank's files are on the disk; the commit, if they were the last."""
        part, key = news.part, news.part.key
        if not self._in_history(part.attempt, part.step) or (key, part.step) in self._committed:
            return None
        pending = self._pending_of(key, part.step)
        pending.parts[part.rank] = news.files
        if len(pending.parts) < self.world_size:
            return None
        del self._pending[key]
        self._committed.add((key, pending.step))
        if key.save_dir not in self.save_dirs:
            self.save_dirs.append(key.save_dir)
        write_s = 0.0 if pending.staged_s is None else now_s - pending.staged_s
        files = {name: file for rank in sorted(pending.parts) for name, file in pending.parts[rank].items()}
        manifest = Manifest(self.run, key.attempt, pending.step, key.tag, self.world_size, time.time(), files)
        return Commit(key.save_dir, manifest, part.save_latest, write_s)

    def given_up(self, news: PartGivenUp) -> None:
        """A rank's files cannot be written: nobody waits for this checkpoint, even if not all ranks have said
        yet that they staged it."""
        self._pending_of(news.part.key, news.part.step).given_up = True

    def rejected(self, before: int) -> None:
        """Nothing that was saved from this step on is to be committed, whatever writers still bring."""
        self._went_on_from[self._last_attempt + 1] = before - 1
        self._pending = {
            key: one for key, one in self._pending.items() if self._in_history(key.attempt, one.step)
        }

    def on_their_way(self) -> list[Key]:
        """Checkpoints of which files may be on a disk, and that have no name yet."""
        return list(self._pending)

    def awaited(self) -> list[Key]:
        """Checkpoints that all ranks have staged and that are not durable yet."""
        return [key for key, one in self._pending.items() if one.staged_s is not None and not one.given_up]

    def lost_node(self) -> None:
        """A node's agent is gone: nothing on its way will arrive by itself, though what it had in memory may
        be parked."""
        self._pending.clear()

    def found_committed(self, committed: Iterable[tuple[str, Manifest]]) -> None:
        """These have their names on the disk, whoever gave them those."""
        for save_dir, one in committed:
            if one.run == self.run:
                self._committed.add((Key(one.attempt, save_dir, one.tag), one.step))

    def unnamed(self, commit: Commit) -> None:
        """This one will not get its name, as far as is known."""
        one = commit.manifest
        self._committed.discard((Key(one.attempt, commit.save_dir, one.tag), one.step))

    def from_memory(self, holdings: Sequence[Held], before: int | None) -> Restore | None:
        """The newest generation that every rank has in memory; ``before`` leaves out its own step and
        later.

        Ranks go on for a while when nobody hears them any more, and save. What is parked of such a step is
        left out: its loss may have been one to be rejected, and the journal would never know the steps to it.
        """
        ranks: dict[tuple[int, int, str, str], dict[int, Held]] = {}
        for held in holdings:
            part = held.part
            if held.parked and part.step > self._heard.get(part.attempt, 0):
                continue
            if (before is None or part.step < before) and self._in_history(part.attempt, part.step):
                ranks.setdefault((part.step, part.attempt, part.dir, part.tag), {})[part.rank] = held
        whole = [name for name, of_rank in ranks.items() if len(of_rank) == self.world_size]
        if not whole:
            return None
        step, attempt, save_dir, tag = newest = max(whole)
        files = {
            name: RestoredFile(rank, memory.bytes, memory)
            for rank, held in ranks[newest].items()
            for name, memory in held.files.items()
        }
        parked = any(held.parked for held in ranks[newest].values())
        source = RestoreSource.PARKED if parked else RestoreSource.MEMORY
        is_committed = (Key(attempt, save_dir, tag), step) in self._committed
        return Restore(source, attempt, step, tag, save_dir, files, committed=is_committed)

    def from_disk(self, committed: Sequence[tuple[str, Manifest]], before: int | None) -> Restore | None:
        """The newest of the committed checkpoints that this number of ranks can load."""
        fit = [
            (save_dir, one)
            for save_dir, one in committed
            if (before is None or one.step < before) and not self.misfit(one)
        ]
        if not fit:
            return None
        save_dir, one = max(fit, key=lambda pair: (pair[1].step, pair[1].attempt))
        files = {name: RestoredFile(part.rank, part.bytes) for name, part in one.files.items()}
        return Restore(RestoreSource.DISK, one.attempt, one.step, one.tag, save_dir, files)

    def misfit(self, manifest: Manifest) -> str | None:
        """Why the run's ranks cannot load a checkpoint, because of how many they are; None where they can."""
        return None if self.any_number else misfit(manifest, self.world_size)

    def _in_history(self, attempt: int, step: int) -> bool:
        later = (origin for number, origin in self._went_on_from.items() if number > attempt)
        return all(step <= origin for origin in later)

    def _pending_of(self, key: Key, step: int) -> _Pending:
        return self._pending.setdefault(key, _Pending(step))
