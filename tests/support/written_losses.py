"""Follows a training script from outside, step by step, and kills its ranks at a step or within a save.

The script appends one line of JSON a step to a file. Here a named pipe stands in that place: whoever opens it to
write waits until somebody reads. Before that the name is given to another pipe, at which the next step's line has
to wait in turn: the script is never further than one step ahead of what is done to it, on a busy machine too. A save is met in the same way: where the file that is to be written is a pipe, the rank is
known to be in the middle of it. A kill there leaves the first half of the file, as a death in a write does.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.faults import Victim, fail
from tests.support.processes import end, title

_SMALLEST_PIPE_BYTES = 4096
_JOIN_S = 60.0
_LOOK_S = 0.01
_LATE_S = 1.0


@dataclass(frozen=True)
class Kill:
    """Of a rank, when the line of a step is there; or of the one that writes ``within`` in the save after it,
    rank 0 then."""

    step: int
    rank: int = 1
    within: str = ""


class WrittenLosses:
    """Reads ``path`` while a run writes to it. ``lines`` are the steps and losses in the order in which they
    came, ``told`` how many of them each kill had met. ``program`` is a word of the command that trains, where a
    rank starts it as its child."""

    def __init__(self, path: Path, kills: Sequence[Kill], program: str = "") -> None:
        path.parent.mkdir(exist_ok=True)
        self._pipes = 0
        self._path, self._kills, self._program = path, list(kills), program
        self.lines: list[tuple[int, float]] = []
        self.told: list[int] = []
        self._run: Victim | None = None
        self._over = False
        self._threads: list[threading.Thread] = []
        self._failed: list[BaseException] = []
        self._newest = self._give_name()

    def follow(self, run: Victim) -> None:
        self._run = run
        self._begin(self._read)

    def close(self) -> None:
        """The run has ended. Every kill must have struck."""
        self._over = True
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise self._failed[0]
        assert not self._kills, f"did not strike: {self._kills}"

    def losses(self) -> dict[int, float]:
        """The last of each step."""
        return dict(self.lines)

    def begun_at(self) -> list[int]:
        """The first step of each attempt. A step that the others had all but done may follow a kill."""
        steps = [step for step, _ in self.lines]
        begun = steps[:1]
        for count, until in zip(self.told, [*self.told[1:], len(steps)], strict=True):
            back = [after for after in range(count, until) if steps[after] <= steps[after - 1]]
            begun += [steps[at] for at in (back or range(count, until))[:1]]
        return begun

    def _begin(self, work: object, *args: object) -> None:
        def guarded() -> None:
            try:
                work(*args)  # type: ignore[operator]
            except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
                self._failed.append(error)
                if self._run is not None:
                    self._run.driver.kill()  # nobody reads any more what its ranks write

        self._threads.append(threading.Thread(target=guarded, daemon=True))
        self._threads[-1].start()

    def _give_name(self) -> Path:
        """A new pipe stands where the script writes; its other name."""
        self._pipes += 1
        pipe, link = (self._path.with_name(f".{kind}-{self._pipes}") for kind in ("line", "link"))
        os.mkfifo(pipe)
        os.link(pipe, link)
        os.replace(link, self._path)
        return pipe

    def _read(self) -> None:
        opened: list[tuple[int, float]] = []
        over = False
        while not over:
            over = self._over  # what was written before is read once more
            pipe, self._newest = self._newest, self._give_name()
            opened.append((os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), time.monotonic()))
            pipe.unlink()
            for one in list(opened):
                descriptor, since_s = one
                text = self._all_of(descriptor)
                # Who had found the pipe by its name and was about to open it may come a moment later.
                if text or time.monotonic() - since_s > _LATE_S:
                    os.close(descriptor)
                    opened.remove(one)
                if text:
                    self.lines += [
                        (line["step"], line["loss"]) for line in map(json.loads, text.splitlines())
                    ]
                    self._strike()
            time.sleep(_LOOK_S)
        for descriptor, _ in opened:
            os.close(descriptor)

    def _all_of(self, descriptor: int) -> bytes:
        """What whoever has the pipe open writes to it, to its end; nothing where nobody has."""
        text = b""
        while True:
            try:
                part = os.read(descriptor, _SMALLEST_PIPE_BYTES)
            except BlockingIOError:
                if self._over:
                    return text
                select.select([descriptor], [], [], _LOOK_S)
                continue
            if not part:
                return text
            text += part

    def _strike(self) -> None:
        if not self.lines or not self._kills:
            return
        step, kill = self.lines[-1][0], self._kills[0]
        if kill.within and step == kill.step - 1:
            self._lie_in_wait(kill)
        elif not kill.within and step >= kill.step:
            self._end(self._victim(kill.rank))

    def _lie_in_wait(self, kill: Kill) -> None:
        place = self._path.parent / kill.within
        if place.is_fifo():
            return
        place.parent.mkdir(exist_ok=True)
        pipe = place.with_name(".within")
        os.mkfifo(pipe)
        os.replace(pipe, place)  # an earlier save may be there, which the script overwrites
        self._begin(self._end_within, place, self._victim(0))

    def _end_within(self, place: Path, victim: psutil.Process) -> None:
        pipe = os.open(place, os.O_RDWR | os.O_NONBLOCK)
        try:
            # What is longer does not fit, so that the rank cannot have finished it.
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _SMALLEST_PIPE_BYTES)
            while not select.select([pipe], [], [], _LOOK_S)[0]:
                if self._over:
                    return
            self._end(victim)
            written = os.read(pipe, _SMALLEST_PIPE_BYTES)
        finally:
            os.close(pipe)
        half = place.with_name("half.fifo")
        half.write_bytes(written[: len(written) // 2])
        os.replace(half, place)

    def _end(self, victim: psutil.Process) -> None:
        end(victim)
        victim.wait(_JOIN_S)
        self.told.append(len(self.lines))
        self._kills.pop(0)

    def _victim(self, rank: int) -> psutil.Process:
        """What trains as that rank: itself or, of a program that is no script, the last that it has started."""
        assert self._run is not None
        found = fail(rank=rank)._find(self._run, "rank", rank)
        assert found is not None, f"no rank {rank}"
        started = [one for one in found.children(recursive=True) if self._program in title(one)]
        return started[-1] if self._program else found
