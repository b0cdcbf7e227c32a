"""A node's part in snapshots: the memory of its ranks, the process that writes it out, the files it lays out.

The agent holds the slots open, so that generations outlive the ranks and end with the agent. It starts the
writer like a rank, from the same zygote, and tells it what to write; it touches names and manifests
only when the driver says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.agent.assignment import Assignment, base_environment
from orchestrator.agent.messages import FromWriter, RankUnstaged
from orchestrator.agent.staging_dir import choose_place
from orchestrator.agent.writer import NodeWriter, elsewhere
from orchestrator.checkpoint.arena import Slot, open_slot_file
from orchestrator.checkpoint.commits import Held, Key, RankPart, Restore
from orchestrator.checkpoint.laid_out import InMemory, LaidOut
from orchestrator.checkpoint.staging import is_awaited, writer_is_done
from orchestrator.checkpoint.store import attempt_dir
from orchestrator.checkpoint.writer_messages import Request
from orchestrator.rank.launch.launcher import Launcher
from orchestrator.rank.messages import Staged

SLOTS = 2
_SHARED_BETWEEN_RANKS = "zero_pp_rank_"


class NodeSnapshots:
    """One per agent; never blocks."""

    def __init__(self, assignment: Assignment, node_index: int) -> None:
        self._assignment = assignment
        self._first_rank = node_index * assignment.ranks.per_node
        self._view = Path(assignment.places.run_dir) / "restore" / f"node-{node_index}"
        place = choose_place(assignment.snapshot.dirs, assignment.snapshot_bytes)
        self.remark = place.remark
        self._folder = place.folder
        ranks = range(assignment.ranks.per_node)
        self._slots = [
            [open_slot_file(place.folder) for _ in range(SLOTS)] if place.folder else [] for _ in ranks
        ]
        self._fetched: list[int] = []
        self._unstaged: set[int] = set()  # ranks of which it has been said
        self._pending: list[FromWriter] = []
        self._laid_out: LaidOut | None = None
        log_path = Path(assignment.places.run_dir) / "logs" / f"writer.node-{node_index}.log"
        self._writer = NodeWriter(assignment.run, base_environment(assignment), log_path)

    def payload_for(self, attempt: int, local_rank: int) -> dict[str, Any]:
        """What a rank of the attempt must know: see
        :class:`~orchestrator.checkpoint.engine.RankSnapshots`."""
        slots = [elsewhere(fd) for fd in self._slots[local_rank]]
        return {
            "attempt": attempt,
            "slots": slots,
            "restore": self._laid_out and self._laid_out.to_payload(),
            "trusted": list(self._assignment.snapshot.trusted),
            "key": self._assignment.secrets.signing.key,
            "key_required": self._assignment.secrets.signing.required,
            "allow_types": list(self._assignment.snapshot.allow_types),
        }

    def saved(self, rank: int, staged: Staged, launcher: Launcher) -> None:
        """A rank has saved: have it written out."""
        if staged.given_up and rank not in self._unstaged:
            self._unstaged.add(rank)
            self._pending.append(RankUnstaged(rank, staged.given_up))
        part = RankPart(staged.attempt, staged.step, staged.dir, staged.tag, rank, staged.save_latest)
        request = _request(part, staged.to, slot=None, files=staged.files)
        wanted = []
        if staged.slot is not None:
            fd = self._slots[rank - self._first_rank][staged.slot]
            wanted.append(_request(part, staged.to, slot=elsewhere(fd)))
        if staged.files or not wanted:
            wanted.append(request)
        self._writer.write(part, wanted, launcher)

    def poll(self, launcher: Launcher) -> list[FromWriter]:
        """What the writer said since the last call; one that died is started again and asked again."""
        pending, self._pending = self._pending, []
        return pending + self._writer.poll(launcher)

    def holdings(self) -> list[Held]:
        """The generations in memory that are whole."""
        held = []
        for rank, path, slot in self._opened():
            header = slot.header()
            if header is not None and header["state"] == "staged":
                keys = ("attempt", "tag", "step", "dir", "save_latest")
                part = RankPart(rank=rank, **{key: header[key] for key in keys})
                is_written = writer_is_done(slot, header) and "given_up" not in (slot.written() or ())
                held.append(Held(part, path, is_written, _files_of(slot, path)))
        return held

    def forget(self, from_step: int) -> None:
        """Generations of this step and later are not to be gone on from."""
        for _, _, slot in self._opened():
            header = slot.header()
            if header is not None and int(header["step"]) >= from_step:
                slot.forget()

    def lay_out(self, restore: Restore | None, launcher: Launcher) -> list[str]:
        """Make the folder that ranks are led to, with a name for every file of the checkpoint.

        Returns the files that ranks here need and that are not on this node.
        """
        shutil.rmtree(self._view, ignore_errors=True)
        while self._fetched:
            os.close(self._fetched.pop())
        self._laid_out = None
        if restore is None:
            self._drop_what_nobody_writes()
            return []
        folder = self._view / restore.tag
        durable = Path(restore.save_dir, restore.tag)
        places: dict[str, InMemory | None] = {}
        lacking = []
        for name, file in restore.files.items():
            seat = folder / name
            seat.parent.mkdir(parents=True, exist_ok=True)
            ours = self._is_ours(file.rank)
            places[name] = file.memory if ours else None
            if file.memory is None and (durable / name).is_file():
                seat.symlink_to(durable / name)
                continue
            seat.touch()  # DeepSpeed looks whether it is there before it asks for it
            if (ours or is_for_every_rank(name)) and places[name] is None:
                lacking.append(name)
        self._write_what_is_held(restore, launcher)
        self._drop_what_nobody_writes()
        self._laid_out = LaidOut(
            restore.save_dir, restore.tag, restore.step, str(self._view), restore.unvouched, places
        )
        return lacking

    def _write_what_is_held(self, restore: Restore, launcher: Launcher) -> None:
        """A rank that died right after staging could not say so any more: its part is written all the
        same."""
        for held in self.holdings():
            part = held.part
            if part.key != restore.key or held.written or self._writer.writes(part.rank, part.key):
                continue
            to = str(attempt_dir(Path(part.dir), part.attempt, part.step, part.tag))
            self._writer.write(part, [_request(part, to, slot=held.slot)], launcher)

    def _drop_what_nobody_writes(self) -> None:
        """A rank died right after staging, and the others did not get that far: the next one in its place
        would wait for ever until this generation is on the disk."""
        for rank, _, slot in self._opened():
            header = slot.header()
            if header is None or not is_awaited(slot):
                continue
            if not self._writer.writes(rank, Key(header["attempt"], header["dir"], header["tag"])):
                slot.forget()

    def take(self, name: str, data: bytes, memory: InMemory | None, first: bool) -> None:
        """A stretch of a file of another node: into memory where it lies in ``memory`` there, else into the
        view."""
        assert self._laid_out is not None
        if memory is None:
            with (self._view / self._laid_out.tag / name).open("wb" if first else "ab") as file:
                file.write(data)
            return
        if first:
            assert self._folder is not None
            self._fetched.append(open_slot_file(self._folder))
            path = elsewhere(self._fetched[-1])
            self._laid_out.files[name] = dataclasses.replace(memory, path=path, offset=0)
        # all of it, or an error: there may be no room
        with open(self._fetched[-1], "wb", closefd=False) as file:
            file.write(data)

    def close(self) -> None:
        """End the writer and let go of all memory."""
        self._writer.close()
        for fd in [*self._fetched, *(fd for _, fd in self._all_slots())]:
            os.close(fd)
        self._slots, self._fetched = [[] for _ in self._slots], []
        shutil.rmtree(self._view, ignore_errors=True)

    def _all_slots(self) -> list[tuple[int, int]]:
        """Rank and descriptor of each."""
        return [(self._first_rank + local, fd) for local, slots in enumerate(self._slots) for fd in slots]

    def _opened(self) -> Iterator[tuple[int, str, Slot]]:
        """Rank, path and slot of each, closed afterwards."""
        for rank, fd in self._all_slots():
            path = elsewhere(fd)
            with contextlib.closing(Slot.open(path)) as slot:
                yield rank, path, slot

    def _is_ours(self, rank: int) -> bool:
        return self._first_rank <= rank < self._first_rank + self._assignment.ranks.per_node


def _request(part: RankPart, to: str, slot: str | None, files: Sequence[str] = ()) -> Request:
    """Asks for all that a slot holds, or for files that are there already; the writer's owner numbers it."""
    return Request(0, part.attempt, part.tag, part.dir, part.rank, to, slot, list(files))


def is_for_every_rank(name: str) -> bool:
    """Whether ranks other than its writer read the file too, as DeepSpeed names its files."""
    return _SHARED_BETWEEN_RANKS not in name


def _files_of(slot: Slot, path: str) -> dict[str, InMemory]:
    """By name, where each file of the slot's generation lies."""
    return {name: InMemory(path, *slot.extent(name), entry) for name, entry in slot.entries().items()}
