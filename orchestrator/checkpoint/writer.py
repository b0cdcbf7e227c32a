"""The process that writes a node's checkpoints from memory to the disk, behind the training.

Started like a rank, with this file as its script, and the paths of two pipes as its arguments: requests and
answers, see :mod:`~orchestrator.checkpoint.writer_messages`. It ends at the end of the requests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

if __name__ == "__main__":  # this package is where nobody looks, and its modules where everybody would
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from orchestrator.checkpoint import writer_messages as messages
    from orchestrator.checkpoint.arena import Slot
    from orchestrator.checkpoint.manifest import FilePart
    from orchestrator.files import NO_SPACE, sync

    del sys.path[0]
else:
    from orchestrator.checkpoint import writer_messages as messages
    from orchestrator.checkpoint.arena import Slot
    from orchestrator.checkpoint.manifest import FilePart
    from orchestrator.files import NO_SPACE, sync

RETRY_S = 1.0
NICENESS = 19
_READ_BYTES = 1 << 22


class _NotWrittenError(Exception):
    """A request that cannot be fulfilled. The message says why."""


class Hashed:
    """What `torch.save` writes to: the file, and the hash and length of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.error: OSError | None = None  # torch.save raises one of its own instead

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        count = memoryview(data).nbytes
        self._bytes += count
        return count

    def flush(self) -> None:
        pass

    def part(self, rank: int) -> FilePart:
        """What was written, as the file of this rank."""
        return FilePart(self._hash.hexdigest(), self._bytes, rank)


class Writer:
    """Fulfils requests one by one. `answer` takes the answers; `wait(seconds)` says whether to stop waiting.

    `create` opens a new file for writing, replacing an old one.
    """

    def __init__(
        self,
        answer: Callable[[messages.Answer], None],
        wait: Callable[[float], bool],
        create: Callable[[Path], BinaryIO] | None = None,
    ) -> None:
        self._answer = answer
        self._wait = wait
        self._create = create or _new_file

    def handle(self, request: messages.Request) -> None:
        """Fulfil it, and answer."""
        began = time.monotonic()
        try:
            files = (
                self._in_place(request) if request.slot is None else self._from_slot(request, request.slot)
            )
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the next can be written
            reason = str(error) if isinstance(error, _NotWrittenError) else f"{type(error).__name__}: {error}"
            _give_up(request)
            self._answer(messages.Failed(request.id, reason))
            return
        self._answer(messages.Written(request.id, files, time.monotonic() - began))

    def _from_slot(self, request: messages.Request, path: str) -> dict[str, FilePart]:
        slot = Slot.open(path)
        try:
            _check_generation(slot, request)
            held = set(slot.entries())
            files = {name: self._patiently(slot, request, name) for name in request.files or sorted(held)}
            if held <= set(files):
                slot.mark_written(request.attempt, request.tag, request.dir)
        finally:
            slot.close()
        return files

    def _in_place(self, request: messages.Request) -> dict[str, FilePart]:
        folder = Path(request.to)
        return {name: _hash_and_sync(folder / name, request.rank) for name in request.files}

    def _patiently(self, slot: Slot, request: messages.Request, name: str) -> FilePart:
        """Until there is space. What was written in vain is removed first: others may be short of it too."""
        path = Path(request.to, name)
        held_since: float | None = None
        while True:
            try:
                part = self._write(slot, request, name, path)
            except Exception as error:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                if not isinstance(error, OSError) or error.errno not in NO_SPACE:
                    raise
                if held_since is None:
                    held_since = time.monotonic()
                    self._answer(messages.Held(request.id, f"{path}: {error.strerror}"))
                self._wait_for_space(slot, request, name, path)
                continue
            if held_since is not None:
                self._answer(messages.Freed(request.id, time.monotonic() - held_since))
            return part

    def _wait_for_space(self, slot: Slot, request: messages.Request, name: str, path: Path) -> None:
        """At least until the next try; longer where that would fill the disk again, in vain."""
        while True:
            if self._wait(RETRY_S):
                raise _NotWrittenError(f"{path}: there was no space for it, and nobody waits for it any more")
            _check_generation(slot, request)
            if _free_bytes(path) >= slot.extent(name)[1]:
                return

    def _write(self, slot: Slot, request: messages.Request, name: str, path: Path) -> FilePart:
        """One file, durable. The rank does not wait for us, so only a slot that is the same after it
        counts."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._create(path) as file:
            hashed = Hashed(file)
            try:
                _check_generation(slot, request)
                slot.write(name, hashed)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            except Exception as error:
                _check_generation(slot, request)
                if hashed.error is not None:
                    raise hashed.error from error
                raise
            _check_generation(slot, request)
        _sync_folders(path.parent, Path(request.to))
        return hashed.part(request.rank)


def _new_file(path: Path) -> BinaryIO:
    """Never the file of that name that is there: the writer of an agent that has been killed may still be
    about to end, and write to it."""
    path.unlink(missing_ok=True)
    return path.open("wb")


def _check_generation(slot: Slot, request: messages.Request) -> None:
    header = slot.header() or {"state": "empty"}
    wanted = {"attempt": request.attempt, "tag": request.tag, "dir": request.dir}
    if header["state"] != "staged" or any(header[key] != value for key, value in wanted.items()):
        held = {key: header.get(key) for key in ("state", *wanted)}
        raise _NotWrittenError(f"the memory of {wanted} was reused: it holds {held}")


def _give_up(request: messages.Request) -> None:
    """What will not be on the disk stays in memory, until its rank needs the slot: it must not wait for
    us."""
    with contextlib.suppress(OSError, _NotWrittenError):
        if request.slot is not None:
            slot = Slot.open(request.slot)
            try:
                _check_generation(slot, request)
                slot.mark_written(request.attempt, request.tag, request.dir, given_up=True)
            finally:
                slot.close()


def _free_bytes(path: Path) -> int:
    """Of the disk that is to hold the file; its folder may not be there yet."""
    folder = next(folder for folder in path.parents if folder.is_dir())
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def _hash_and_sync(path: Path, rank: int) -> FilePart:
    with path.open("rb") as file:
        hashed = hashlib.sha256()
        while data := file.read(_READ_BYTES):
            hashed.update(data)
        os.fsync(file.fileno())
        part = FilePart(hashed.hexdigest(), file.tell(), rank)
    _sync_folders(path.parent, path.parent)
    return part


def _sync_folders(lowest: Path, highest: Path) -> None:
    """Make the names in these folders durable, and the name of the highest in its parent."""
    for folder in (lowest, *lowest.parents):
        sync(folder)
        if folder == highest.parent:
            return


def main() -> None:
    requests_path, answers_path = sys.argv[1:3]
    # What stops ranks; we go on until their files are written.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    ended = threading.Event()

    def read() -> None:
        with open(requests_path, "rb") as requests:
            for line in requests:
                lines.put(line)
        ended.set()
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    with open(answers_path, "wb") as answers:

        def say(answer: messages.Answer) -> None:
            answers.write(messages.ANSWERS.encode(answer))
            answers.flush()

        writer = Writer(say, ended.wait)
        import torch  # noqa: F401 - while requests are gathered

        while (line := lines.get()) is not None:
            writer.handle(messages.REQUESTS.decode(line))


if __name__ == "__main__":
    main()
