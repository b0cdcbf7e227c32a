"""A node's part in snapshots: the memory of its ranks, the process that writes it out, the files it lays out.

The agent holds the slots open, so that generations outlive the ranks and end with the agent. It starts the
writer like a rank, from the same zygote, and tells it what to write; it touches names and manifests
only when the driver says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cluster.assignment import Assignment, base_environment
from orchestrator.cluster.merge import Part
from orchestrator.rank import writeout
from orchestrator.rank.arena import Slot, open_slot_file, room_bytes
from orchestrator.rank.durable import attempt_dir
from orchestrator.rank.launcher import Launcher, RankProcess, RankStartError
from orchestrator.rank.snapshot import is_awaited
from orchestrator.rank.spec import RankSpec

DURABLE = "durable"
SLOTS = 2
# A folder with less room than this is not worth staging in where the job's needs are not known.
_LEAST_BYTES = 64 << 20
_SHARED_BETWEEN_RANKS = "zero_pp_rank_"


@dataclass
class Place:
    """Where the node stages; ``folder`` None makes the training wait for the disk. ``remark`` says why it is not
    the first choice."""

    folder: Path | None
    remark: str | None = None


def choose_place(dirs: Sequence[str], needed_bytes: int | None) -> Place:
    """The first folder with room for ``needed_bytes`` (two generations of this node; None is not known)."""
    refused: list[str] = []
    for name in dirs:
        if name == DURABLE:
            break
        folder = Path(name)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            refused.append(f"{name} is no folder that can be written")
            continue
        room = room_bytes(folder)
        if room >= (needed_bytes or _LEAST_BYTES):
            return Place(folder, _remark(refused, name))
        needs = f"two generations need {gigabytes(needed_bytes)}" if needed_bytes else "hardly anything"
        refused.append(f"{name} has room for {gigabytes(room)}, {needs}")
    return Place(None, _remark(refused, "the disk only: training waits for every save"))


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _remark(refused: Sequence[str], taken: str) -> str | None:
    return f"snapshot.dirs: {'; '.join(refused)}; taking {taken}" if refused else None


@dataclass
class _Writing:
    """A rank's part of a checkpoint that the writer has been asked for; ``waiting`` are the requests open."""

    about: dict[str, Any]
    waiting: set[int]
    files: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class NodeSnapshots:
    """One per agent; never blocks."""

    def __init__(self, assignment: Assignment, node_index: int) -> None:
        self._assignment = assignment
        self._first_rank = node_index * assignment.ranks_per_node
        self._log_path = Path(assignment.run_dir) / "logs" / f"writer.node-{node_index}.log"
        self._view = Path(assignment.run_dir) / "restore" / f"node-{node_index}"
        place = choose_place(assignment.snapshot_dirs, assignment.snapshot_bytes)
        self.remark = place.remark
        self._folder = place.folder
        ranks = range(assignment.ranks_per_node)
        self._slots = [[open_slot_file(place.folder) for _ in range(SLOTS)] if place.folder else [] for _ in ranks]
        self._fetched: list[int] = []
        self._restore: dict[str, Any] | None = None
        self._writer: RankProcess | None = None
        self._pipes: tuple[int, int] | None = None
        self._partial = b""
        self._requests: dict[int, dict[str, Any]] = {}
        self._writing: list[_Writing] = []
        self._next_id = 0

    def told(self, attempt: int, local_rank: int) -> dict[str, Any]:
        """What a rank of the attempt must know: see :class:`~orchestrator.rank.snapshot.RankSnapshots`."""
        slots = [_elsewhere(fd) for fd in self._slots[local_rank]]
        trusted = list(self._assignment.snapshot_trusted)
        return {"attempt": attempt, "slots": slots, "restore": self._restore, "trusted": trusted}

    def saved(self, rank: int, message: Mapping[str, Any], launcher: Launcher) -> None:
        """A rank has saved: have it written out."""
        staged = message["snapshot"]
        about = {key: message[key] for key in ("step", "dir", "tag")}
        about |= {"attempt": staged["attempt"], "rank": rank, "save_latest": staged["save_latest"]}
        request = {"op": "write", **about, "to": staged["to"], "slot": None, "files": staged["files"]}
        wanted = []
        if staged["slot"] is not None:
            fd = self._slots[rank - self._first_rank][staged["slot"]]
            wanted.append({**request, "slot": _elsewhere(fd), "files": []})
        if staged["files"] or not wanted:
            wanted.append(request)
        self._writing.append(_Writing(about, {self._ask(one, launcher) for one in wanted}))

    def poll(self, launcher: Launcher) -> list[Part]:
        """What the writer said since the last call; one that died is started again and asked again."""
        parts: list[Part] = []
        for answer in self._answers():
            parts += self._heed(answer)
        if self._writer is not None and self._writer.poll() is not None:
            self._end_writer()
        if self._writer is None and self._requests:
            self._ask_again(launcher)
        return parts

    def _heed(self, answer: Mapping[str, Any]) -> list[Part]:
        number = int(answer["id"])
        if answer["event"] in ("held", "freed"):
            return [{"kind": "snapshot_" + str(answer["event"]), **answer}]
        request = self._requests.pop(number, None)
        writing = next((one for one in self._writing if number in one.waiting), None)
        if request is None or writing is None:
            return []
        if answer["event"] == "failed":
            self._writing.remove(writing)
            return [{"kind": "unwritten", **writing.about, "reason": answer["reason"]}]
        writing.waiting.discard(number)
        writing.files |= {name: {**part, "rank": writing.about["rank"]} for name, part in answer["files"].items()}
        writing.seconds += answer["seconds"]
        if writing.waiting:
            return []
        self._writing.remove(writing)
        return [{"kind": "durable", **writing.about, "files": writing.files, "seconds": writing.seconds}]

    def holdings(self) -> list[dict[str, Any]]:
        """The generations in memory: header and entries of each, with rank, slot and path."""
        held = []
        for rank, fd in self._all_slots():
            path = _elsewhere(fd)
            slot = Slot.open(path)
            try:
                header = slot.header()
                if header is not None and header["state"] == "staged":
                    keys = ("attempt", "tag", "step", "dir", "save_latest")
                    entries = {name: _extent_of(slot, name) for name in slot.entries()}
                    about = {key: header[key] for key in keys} | {"rank": rank, "written": _is_written(slot, header)}
                    held.append({**about, "path": path, "entries": entries})
            finally:
                slot.close()
        return held

    def forget(self, from_step: int) -> None:
        """Generations of this step and later are not to be gone on from."""
        for _, fd in self._all_slots():
            slot = Slot.open(_elsewhere(fd))
            try:
                header = slot.header()
                if header is not None and int(header["step"]) >= from_step:
                    slot.forget()
            finally:
                slot.close()

    def lay_out(self, restore: Mapping[str, Any] | None, launcher: Launcher) -> list[str]:
        """Make the folder that ranks are led to, with a name for every file of the checkpoint.

        ``restore`` has ``save_dir``, ``tag``, ``step``, and ``files``: by name the ``rank`` that wrote it, and
        ``memory`` (path, offset, bytes and entry in a slot) where it is restored from there. Returns the files
        that ranks here need and that are not on this node.
        """
        shutil.rmtree(self._view, ignore_errors=True)
        while self._fetched:
            os.close(self._fetched.pop())
        self._restore = None
        if restore is None:
            self._drop_what_nobody_writes()
            return []
        folder = self._view / restore["tag"]
        durable = Path(restore["save_dir"], restore["tag"])
        places: dict[str, Any] = {}
        lacking = []
        for name, part in restore["files"].items():
            seat = folder / name
            seat.parent.mkdir(parents=True, exist_ok=True)
            memory = part.get("memory")
            ours = self._is_ours(part["rank"])
            places[name] = memory if ours else None
            if memory is None and (durable / name).is_file():
                seat.symlink_to(durable / name)
                continue
            seat.touch()  # DeepSpeed looks whether it is there before it asks for it
            if (ours or is_for_every_rank(name)) and places[name] is None:
                lacking.append(name)
        self._write_what_is_held(restore, launcher)
        self._drop_what_nobody_writes()
        keys = ("save_dir", "tag", "step")
        self._restore = {**{key: restore[key] for key in keys}, "view": str(self._view), "files": places}
        return lacking

    def _write_what_is_held(self, restore: Mapping[str, Any], launcher: Launcher) -> None:
        """A rank that died right after staging could not say so any more: its part is written all the same."""
        for held in self.holdings():
            same = all(held[key] == restore.get(of) for key, of in (("dir", "save_dir"), ("tag", "tag")))
            if not same or held["written"] or held["attempt"] != restore["attempt"]:
                continue
            about = {key: held[key] for key in ("attempt", "step", "dir", "tag", "rank", "save_latest")}
            if any(one.about == about for one in self._writing):
                continue
            to = str(attempt_dir(Path(held["dir"]), held["attempt"], held["step"], held["tag"]))
            number = self._ask({"op": "write", **about, "to": to, "slot": held["path"], "files": []}, launcher)
            self._writing.append(_Writing(about, {number}))

    def _drop_what_nobody_writes(self) -> None:
        """A rank died right after staging, and the others did not get that far: the next one in its place would
        wait for ever until this generation is on the disk."""
        asked = [(one.about["rank"], one.about["attempt"], one.about["tag"]) for one in self._writing]
        for rank, fd in self._all_slots():
            slot = Slot.open(_elsewhere(fd))
            try:
                header = slot.header()
                if header and is_awaited(slot) and (rank, header["attempt"], header["tag"]) not in asked:
                    slot.forget()
            finally:
                slot.close()

    def take(self, name: str, data: bytes, entry: Mapping[str, Any] | None, first: bool) -> None:
        """A stretch of a file of another node: into memory where ``entry`` describes it, else into the view."""
        assert self._restore is not None
        if entry is None:
            with (self._view / self._restore["tag"] / name).open("wb" if first else "ab") as file:
                file.write(data)
            return
        if first:
            assert self._folder is not None
            self._fetched.append(open_slot_file(self._folder))
            path = _elsewhere(self._fetched[-1])
            self._restore["files"][name] = {"path": path, "offset": 0, "entry": dict(entry)}
        with open(self._fetched[-1], "wb", closefd=False) as file:  # all of it, or an error: there may be no room
            file.write(data)

    def close(self) -> None:
        """End the writer and let go of all memory."""
        self._end_writer()
        for fd in [*self._fetched, *(fd for _, fd in self._all_slots())]:
            os.close(fd)
        self._slots, self._fetched = [[] for _ in self._slots], []
        shutil.rmtree(self._view, ignore_errors=True)

    def _all_slots(self) -> list[tuple[int, int]]:
        """Rank and descriptor of each."""
        return [(self._first_rank + local, fd) for local, slots in enumerate(self._slots) for fd in slots]

    def _is_ours(self, rank: int) -> bool:
        return self._first_rank <= rank < self._first_rank + self._assignment.ranks_per_node

    def _ask(self, request: dict[str, Any], launcher: Launcher) -> int:
        self._next_id += 1
        self._requests[self._next_id] = request
        if self._writer is None:
            self._ask_again(launcher)
        else:
            self._send(self._next_id)
        return self._next_id

    def _ask_again(self, launcher: Launcher) -> None:
        """Start a writer and ask it all that is open."""
        with contextlib.suppress(RankStartError):  # the zygote died too; the next attempt brings another
            self._start_writer(launcher)
            for number in self._requests:
                self._send(number)

    def _send(self, number: int) -> None:
        assert self._pipes is not None
        os.write(self._pipes[0], json.dumps({"id": number, **self._requests[number]}).encode() + b"\n")

    def _start_writer(self, launcher: Launcher) -> None:
        requests_read, requests_write = os.pipe2(os.O_CLOEXEC)
        answers_read, answers_write = os.pipe2(os.O_CLOEXEC)
        spec = RankSpec(
            rank=0,
            local_rank=0,
            world_size=1,
            title=f"orchestrator writer {self._assignment.run}",
            script=str(Path(writeout.__file__).resolve()),
            args=[_elsewhere(requests_read), _elsewhere(answers_write)],
            cwd="/",
            env=base_environment(self._assignment),
            log_path=str(self._log_path),
        )
        os.set_blocking(answers_read, False)
        self._pipes, self._partial = (requests_write, answers_read), b""
        self._lent = (requests_read, answers_write)  # the writer opens them by our number, some time from now
        try:
            self._writer = launcher.start(spec)
        except RankStartError:
            self._end_writer()
            raise

    def _end_writer(self) -> None:
        if self._writer is not None:
            self._writer.kill()
            self._writer.close()
            self._writer = None
        if self._pipes is not None:
            for fd in (*self._pipes, *self._lent):
                os.close(fd)
            self._pipes = None

    def _answers(self) -> list[dict[str, Any]]:
        lines: list[bytes] = []
        while self._pipes is not None:
            try:
                read = os.read(self._pipes[1], 1 << 16)
            except BlockingIOError:
                break
            *whole, self._partial = (self._partial + read).split(b"\n")
            lines += whole
        return [json.loads(line) for line in lines]


def is_for_every_rank(name: str) -> bool:
    """Whether ranks other than its writer read the file too, as DeepSpeed names its files."""
    return _SHARED_BETWEEN_RANKS not in name


def _elsewhere(fd: int) -> str:
    """A path by which other processes of this node open what we hold."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def _is_written(slot: Slot, header: Mapping[str, Any]) -> bool:
    written = slot.written()
    same = written is not None and all(written[key] == header[key] for key in ("attempt", "tag", "dir"))
    return same and "given_up" not in (written or ())


def _extent_of(slot: Slot, name: str) -> dict[str, Any]:
    offset, length = slot.extent(name)
    return {"offset": offset, "bytes": length, "entry": slot.entries()[name]}
