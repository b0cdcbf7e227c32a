"""A node's part in snapshots: the memory of its ranks, the process that writes it out, the files it lays out.

The agent holds the slots open, so that generations outlive the ranks. They end with the agent, unless the
node's keeper holds them open as well: then the next agent of the run on this node has them back (parking.py).
It starts the writer like a rank, from the same zygote, and tells it what to write; it touches names and
manifests only when the driver says so.
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
from orchestrator.agent.parking import ParkedSlots
from orchestrator.agent.staging_dir import choose_place
from orchestrator.agent.writer import NodeWriter, elsewhere
from orchestrator.checkpoint.arena import Slot, open_slot_file
from orchestrator.checkpoint.commits import Held, Key, PartDurable, RankPart, Restore
from orchestrator.checkpoint.laid_out import InMemory, LaidOut
from orchestrator.checkpoint.staging import is_awaited, writer_is_done
from orchestrator.checkpoint.store import attempt_dir
from orchestrator.checkpoint.writer_messages import Request
from orchestrator.rank.launch.launcher import Launcher
from orchestrator.rank.messages import Staged

SLOTS = 2
_SHARED_BETWEEN_RANKS = "zero_pp_rank_"


class NodeSnapshots:
    """One per agent; never blocks, but for its keeper at the beginning. ``keeper`` is the address at which
    slots are parked, "" where nobody does that."""

    def __init__(self, assignment: Assignment, node_index: int, keeper: str = "") -> None:
        self._assignment = assignment
        self._first_rank = node_index * assignment.ranks.per_node
        self._view = Path(assignment.places.run_dir) / "restore" / f"node-{node_index}"
        self._parked = ParkedSlots.of(assignment, self._first_rank, keeper)
        has_bytes = self._parked.taken_bytes if self._parked else 0
        place = choose_place(assignment.snapshot.dirs, assignment.snapshot_bytes, has_bytes)
        self.remark = place.remark
        self._folder = place.folder
        self._slots = [self._slots_of(self._first_rank + local) for local in range(assignment.ranks.per_node)]
        # What slots held when they came back, until an attempt has begun.
        self._came = self._headers() if self._parked and self._parked.taken else {}
        # What the writer of this agent has brought to the disk, newest last: nobody else can say so again.
        self._durable: dict[tuple[int, Key, int], PartDurable] = {}
        self._fetched: list[int] = []
        self._unstaged: set[int] = set()  # ranks of which it has been said
        self._pending: list[FromWriter] = []
        self._laid_out: LaidOut | None = None
        log_path = Path(assignment.places.run_dir) / "logs" / f"writer.node-{node_index}.log"
        self._writer = NodeWriter(assignment.run, base_environment(assignment), log_path)

    @property
    def parked_ranks(self) -> list[int]:
        """Ranks of the run of which this node has slots of an earlier agent, whether or not they run here."""
        return sorted([*self._parked.taken, *self._parked.others]) if self._parked else []

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
        if staged.given_up and self._parked:
            self._parked.want_room()
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
        said = self._writer.poll(launcher)
        for one in said:
            if isinstance(one, PartDurable):
                self._durable[_generation(one.part)] = one
        for old in list(self._durable)[: -SLOTS * len(self._slots)]:
            del self._durable[old]
        return pending + said

    def holdings(self) -> list[Held]:
        """The generations in memory that are whole."""
        held = []
        for rank, fd, slot in self._opened():
            header, path = slot.header(), elsewhere(fd)
            if header is not None and header["state"] == "staged":
                keys = ("attempt", "tag", "step", "dir", "save_latest")
                part = RankPart(rank=rank, **{key: header[key] for key in keys})
                is_written = writer_is_done(slot, header) and "given_up" not in (slot.written() or ())
                parked = self._came.get(fd) == header
                held.append(Held(part, path, is_written, _files_of(slot, path), parked))
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
        self._came.clear()
        if self._parked:
            self._parked.settle()
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
        self.write_out(restore, launcher)
        self._drop_what_nobody_writes()
        self._laid_out = LaidOut(
            restore.save_dir, restore.tag, restore.step, str(self._view), restore.unvouched, places
        )
        return lacking

    def write_out(self, restore: Restore, launcher: Launcher) -> None:
        """Have what is gone on from written, or say again that it is: a rank that died right after staging
        could not ask for it, and whoever heard that it was written, an agent or a driver, may have gone."""
        if restore.committed:
            return
        for held in self.holdings():
            part = held.part
            if (part.key, part.step) != (restore.key, restore.step):
                continue
            if self._writer.writes(part.rank, part.key):
                continue
            to = attempt_dir(Path(part.dir), part.attempt, part.step, part.tag)
            said = self._durable.get(_generation(part))
            if said is not None and all((to / name).is_file() for name in said.files):
                self._pending.append(said)
            else:
                self._writer.write(part, [_request(part, str(to), slot=held.slot)], launcher)

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

    def finish(self) -> None:
        """The run has finished: what is in memory is of no use to anybody."""
        if self._parked:
            self._parked.finish()

    def close(self) -> None:
        """End the writer and let go of all memory; what the keeper has of it is parked."""
        self._writer.close()
        if self._parked:
            self._parked.close()
        for fd in [*self._fetched, *(fd for _, fd in self._all_slots())]:
            os.close(fd)
        self._slots, self._fetched = [[] for _ in self._slots], []
        shutil.rmtree(self._view, ignore_errors=True)

    def _all_slots(self) -> list[tuple[int, int]]:
        """Rank and descriptor of each."""
        return [(self._first_rank + local, fd) for local, slots in enumerate(self._slots) for fd in slots]

    def _slots_of(self, rank: int) -> list[int]:
        """Those that came back, or new ones, which the keeper is told of."""
        back = self._parked.taken.get(rank, []) if self._parked else []
        if self._folder is None:
            for fd in back:
                os.close(fd)
            return []
        if back:
            return back
        new = [open_slot_file(self._folder) for _ in range(SLOTS)]
        if self._parked:
            self._parked.park(rank, new)
        return new

    def _headers(self) -> dict[int, dict[str, Any]]:
        """What each slot holds, by its descriptor; nothing of those that hold nothing."""
        found = {fd: slot.header() for _, fd, slot in self._opened()}
        return {fd: header for fd, header in found.items() if header is not None}

    def _opened(self) -> Iterator[tuple[int, int, Slot]]:
        """Rank, descriptor and slot of each, closed afterwards."""
        for rank, fd in self._all_slots():
            with contextlib.closing(Slot.open(elsewhere(fd))) as slot:
                yield rank, fd, slot

    def _is_ours(self, rank: int) -> bool:
        return self._first_rank <= rank < self._first_rank + self._assignment.ranks.per_node


def _request(part: RankPart, to: str, slot: str | None, files: Sequence[str] = ()) -> Request:
    """Asks for all that a slot holds, or for files that are there already; the writer's owner numbers it."""
    return Request(0, part.attempt, part.tag, part.dir, part.rank, to, slot, list(files))


def _generation(part: RankPart) -> tuple[int, Key, int]:
    """Names what a rank has staged in one save: a script may use a tag again."""
    return part.rank, part.key, part.step


def is_for_every_rank(name: str) -> bool:
    """Whether ranks other than its writer read the file too, as DeepSpeed names its files."""
    return _SHARED_BETWEEN_RANKS not in name


def _files_of(slot: Slot, path: str) -> dict[str, InMemory]:
    """By name, where each file of the slot's generation lies."""
    return {name: InMemory(path, *slot.extent(name), entry) for name, entry in slot.entries().items()}
