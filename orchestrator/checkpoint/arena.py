"""The memory in which a rank's checkpoints are staged: slots, files without a name that the agent holds open.

A slot holds one generation: the checkpoint files that a rank wrote in one `save_checkpoint`.

    0     JSON, ended by NUL: state, attempt, tag, step, dir, save_latest, table_offset, table_bytes,
          staged_unix_s
    2048  the same by the writer alone: attempt, tag, dir of the generation that was written out last, or
          given_up
    4096  entries (see entries.py), then the table: a JSON list of them

The state is `staging` from before the first byte of a generation until after its last, and only then
`staged`: a rank killed in between leaves no generation. `empty` was dropped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator import papers
from orchestrator.checkpoint.entries import Entry, load_entry, write_entry
from orchestrator.checkpoint.free_space import room, room_bytes
from orchestrator.checkpoint.skeleton import aligned, take_apart

__all__ = ["Slot", "load_extent", "open_slot_file", "room_bytes"]
HEADER_BYTES = 4096
_WRITTEN_AT = 2048
# For the table, and for a generation that is a little larger than the last: mapping anew takes time.
_SPARE_BYTES = 1 << 16
_MADV_POPULATE_WRITE = 23  # Linux 5.14; the mmap module does not name it
# The interpreter lock is held while pages are made: other threads, the heartbeat's, get their turn in
# between.
_POPULATE_BYTES = 32 << 20


def open_slot_file(directory: Path) -> int:
    """A descriptor of a new file that has no name and is gone with its last descriptor. Raises OSError."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    # a file system that makes none without a name
    fd, path = tempfile.mkstemp(prefix=".slot-", dir=directory)
    os.unlink(path)
    return fd


def load_extent(path: str, offset: int, entry: Entry) -> Any:
    """The state dict of an entry whose bytes (see `Slot.extent`) begin at `offset` of any file.

    Of the entry's own offsets only the distances count. Tensors are on the CPU, in memory of their own.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        return load_entry(fd, offset, entry)
    finally:
        os.close(fd)


class Slot:
    """One process's view of a slot. Only one stages at a time; not for several threads at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size  # all of it is allocated: it grows by _take alone
        self._mapping: mmap.mmap | None = None
        self._memory: Any = None  # the mapping as a uint8 tensor
        self._pinned = False
        self._about: dict[str, Any] | None = None  # of the generation that is being staged here
        self._table: dict[str, Entry] = {}
        self._end = HEADER_BYTES
        self._whole = True  # nothing that was to be added is missing

    @classmethod
    def open(cls, path: str) -> Slot:
        """Open what another process holds open, `/proc/PID/fd/N`. Raises OSError."""
        return cls(os.open(path, os.O_RDWR))

    def header(self) -> dict[str, Any] | None:
        """None where nothing was ever staged, or no valid header is to be seen."""
        header = self._read_json(0)
        return header if header is not None and _is_header(header, os.fstat(self._fd).st_size) else None

    def written(self) -> dict[str, Any] | None:
        """What the writer said last, None where nothing that it can have said is to be seen."""
        written = self._read_json(_WRITTEN_AT)
        return written if written is not None and _has(written, _NAMED) else None

    def begin(self, attempt: int, tag: str, step: int, dir: str, save_latest: bool) -> None:
        """Start a generation: what the slot held before is no longer there. Raises OSError."""
        about = {"attempt": attempt, "tag": tag, "step": step, "dir": dir, "save_latest": save_latest}
        self._take(HEADER_BYTES)
        self._write_json(0, {"state": "staging", **about})
        self._about, self._table, self._end, self._whole = about, {}, HEADER_BYTES, True

    def add(self, relpath: str, state_dict: Any, zipfile: bool) -> None:
        """Copy one file's state into the slot; `zipfile` is the format in which it is written to the disk.

        Raises OSError (ENOSPC, ENOMEM) before anything is copied if there is no room for it, and what
        pickling the state raises. The generation can then not be finished; what was added before is there.
        """
        if self._about is None:
            raise RuntimeError(f"{relpath} belongs to no generation: begin() comes first")
        whole, self._whole = self._whole, False
        parts = take_apart(state_dict, zipfile)
        data_offset = aligned(self._end)
        skeleton_offset = data_offset + parts.data_bytes
        end = skeleton_offset + len(parts.skeleton)
        self._take(end + _SPARE_BYTES)
        self._map(end)
        parts.copy_into(self._memory[data_offset:skeleton_offset])
        os.pwrite(self._fd, parts.skeleton, skeleton_offset)
        self._end = end
        self._table[relpath] = {
            "path": relpath,
            "skeleton_offset": skeleton_offset,
            "skeleton_bytes": len(parts.skeleton),
            "data_offset": data_offset,
            "data_bytes": parts.data_bytes,
            "zipfile": zipfile,
        }
        self._whole = whole

    def finish(self) -> int:
        """Make what was added a generation; returns its bytes. Raises OSError."""
        if self._about is None or not self._whole:
            raise RuntimeError(
                "there is no generation to finish: begin() comes first, and every add() succeeds"
            )
        _synchronize()
        table = json.dumps(list(self._table.values())).encode()
        self._take(self._end + len(table))
        os.pwrite(self._fd, table, self._end)
        place = {"table_offset": self._end, "table_bytes": len(table)}
        self._write_json(0, {"state": "staged", **self._about, **place, "staged_unix_s": time.time()})
        self._about = None
        return self._end - HEADER_BYTES

    def mark_written(self, attempt: int, tag: str, dir: str, **given_up: bool) -> None:
        """For the writer: this generation is on the disk, or will not be; nobody is to wait for it."""
        self._write_json(_WRITTEN_AT, {"attempt": attempt, "tag": tag, "dir": dir, **given_up})

    def forget(self) -> None:
        """Drop the generation; its memory stays for the next."""
        header = self.header()
        self._about = None
        if header is not None:
            self._write_json(0, {**header, "state": "empty"})

    def reserve(self, bytes: int) -> None:
        """Take and touch the memory for a generation of so many bytes ahead of it. Raises OSError."""
        self._take(HEADER_BYTES + bytes + _SPARE_BYTES)
        self._map(HEADER_BYTES + bytes)

    def entries(self) -> dict[str, Entry]:
        """The files of the generation by path; of one that is being staged here, those that were added.

        Of one that is being staged elsewhere, or was dropped, there are none.
        """
        if self._about is not None:
            _synchronize()
            return dict(self._table)
        header = self.header()
        if header is None or header["state"] != "staged":
            return {}
        table = os.pread(self._fd, header["table_bytes"], header["table_offset"])
        try:
            entries = papers.json_of(table)
        except papers.PaperError:
            return {}
        size = os.fstat(self._fd).st_size
        whole = isinstance(entries, list) and all(_is_entry(entry, size) for entry in entries)
        return {entry["path"]: entry for entry in entries} if whole else {}

    def extent(self, relpath: str) -> tuple[int, int]:
        """Offset and length of all bytes of one entry. Raises FileNotFoundError."""
        entry = self._entry(relpath)
        return entry["data_offset"], entry["skeleton_offset"] + entry["skeleton_bytes"] - entry["data_offset"]

    def load(self, relpath: str) -> Any:
        """The state dict, its tensors on the CPU, in memory of their own. Raises FileNotFoundError."""
        entry = self._entry(relpath)
        return load_entry(self._fd, entry["data_offset"], entry)

    def write(self, relpath: str, file: BinaryIO) -> None:
        """Write the file as `torch.save` would have, without unpickling. Raises FileNotFoundError,
        OSError."""
        entry = self._entry(relpath)
        write_entry(self._fd, entry["data_offset"], entry, file)

    def close(self) -> None:
        self._unmap()
        os.close(self._fd)

    def _entry(self, relpath: str) -> Entry:
        entries = self.entries()
        if relpath not in entries:
            raise FileNotFoundError(errno.ENOENT, f"not in this slot, which holds {sorted(entries)}", relpath)
        return entries[relpath]

    def _take(self, size: int) -> None:
        """Have the file system allocate `size` bytes from the start: a page that it lacks later is a
        SIGBUS."""
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        lacking = size - self._size
        if lacking <= 0:
            return
        left, refusal = room(self._fd)
        if lacking > left:
            raise OSError(
                refusal, f"{os.strerror(refusal)}: {lacking} bytes more to stage in, {left} are left"
            )
        os.posix_fallocate(self._fd, self._size, lacking)
        self._size = size

    def _map(self, size: int) -> None:
        """Map at least so much, with its pages in place: faults one by one cost more than the copying."""
        if self._mapping is not None and len(self._mapping) >= size:
            return
        import torch

        self._unmap()
        mapping = mmap.mmap(self._fd, self._size, flags=mmap.MAP_SHARED)
        try:
            for start in range(0, self._size, _POPULATE_BYTES):
                mapping.madvise(_MADV_POPULATE_WRITE, start, min(_POPULATE_BYTES, self._size - start))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            mapping = mmap.mmap(self._fd, self._size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._mapping, self._memory = mapping, torch.frombuffer(mapping, dtype=torch.uint8)
        # copies from the GPU then need no buffer in between, and nobody waits
        if torch.cuda.is_initialized():
            self._pinned = not int(
                torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), self._size, 0)
            )

    def _unmap(self) -> None:
        if self._pinned:
            import torch

            torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr())
        self._mapping, self._memory, self._pinned = None, None, False

    def _read_json(self, offset: int) -> dict[str, Any] | None:
        text = os.pread(self._fd, HEADER_BYTES - _WRITTEN_AT, offset).partition(b"\0")[0]
        with contextlib.suppress(ValueError):
            value = papers.json_of(text)
            return value if isinstance(value, dict) else None
        return None

    def _write_json(self, offset: int, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        if len(text) >= (most := HEADER_BYTES - _WRITTEN_AT):
            raise OSError(errno.ENAMETOOLONG, f"folder and tag take more than {most} bytes", value["dir"])
        os.pwrite(self._fd, text.ljust(most, b"\0"), offset)


# A rank's memory is its script's too: what is no header or table of ours holds nothing, and is never the
# agent's end.
_NAMED: dict[str, type] = {"attempt": int, "tag": str, "dir": str}
_PLACED: dict[str, type] = {"table_offset": int, "table_bytes": int}
_ENTRY: dict[str, type] = {
    "skeleton_offset": int,
    "skeleton_bytes": int,
    "data_offset": int,
    "data_bytes": int,
}


def _has(value: dict[str, Any], kinds: dict[str, type]) -> bool:
    """Whether it has all of these; numbers from 0, of no more than 64 bits."""
    return all(
        type(value.get(name)) is kind and (kind is not int or 0 <= value[name] <= papers.LARGEST)
        for name, kind in kinds.items()
    )


def _is_header(header: dict[str, Any], size: int) -> bool:
    if header.get("state") not in ("staging", "staged", "empty") or not _has(header, {**_NAMED, "step": int}):
        return False
    if header["state"] != "staged":
        return True
    return (
        "save_latest" in header
        and _has(header, _PLACED)
        and header["table_offset"] + header["table_bytes"] <= size
    )


def _is_entry(entry: Any, size: int) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not _has(entry, _ENTRY):
        return False
    ends = (entry["skeleton_offset"] + entry["skeleton_bytes"], entry["data_offset"] + entry["data_bytes"])
    return type(entry.get("zipfile")) is bool and max(ends) <= size


def _synchronize() -> None:
    """Wait for copies from the GPU."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
