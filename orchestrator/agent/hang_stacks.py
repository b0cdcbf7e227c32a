"""What the ranks of a node were doing when they hung: their stacks, and whose fault it looks like.

A collective ends when all ranks have entered it. So of ranks that hang, those are to blame that never did.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator import papers
from orchestrator.installation import PACKAGE
from orchestrator.rank import stacks
from orchestrator.rank.messages import GroupSeen

# A rank answers in milliseconds, unless native code keeps the interpreter to itself: then a signal makes it
# answer, unless the kernel does not let it.
SIGNAL_AFTER_S = 5.0
ANSWER_S = SIGNAL_AFTER_S + 2.0
STOPPED, GONE, UNINTERRUPTIBLE = "stopped", "gone", "uninterruptible"
_STATES = {"R": "running", "S": "sleeping", "I": "sleeping", "T": STOPPED, "t": STOPPED, "D": UNINTERRUPTIBLE}

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
# The modules of a rank, and not the whole package: a wheel has the jobs in it.
_OURS = (f"{PACKAGE}/rank/", f"{PACKAGE}/checkpoint/")
_RUNNER = f"{PACKAGE}/rank/runner.py"
_LIBRARY = re.compile(r"/(site|dist)-packages/|(^|/)lib(64)?/python3[\d.]*/|/(torch|deepspeed)/|^<")
_STANDARD_LIBRARY = re.compile(r"/lib(64)?/python3[\d.]*/(?!(site|dist)-packages/)")
_COLLECTIVE = re.compile(
    r"/torch/distributed/(distributed_c10d|c10d_logger|rendezvous|_functional_collectives|nn/functional)\.py$"
    r"|/deepspeed/comm/\w+\.py$"
)
_LEAVING = ("destroy_process_group",)
# Where the main thread waits for those that run the backward pass of a GPU.
_AUTOGRAD = "_engine_run_backward"
# Code that hands work to a device and takes results from it: a rank that is here may have entered a
# collective or not, because on a GPU these go on behind the program's back.
_MAY_WAIT_FOR_DEVICE = re.compile(r"/(torch|deepspeed)/(?!utils/data/)")
_MAY_WAIT_IN_LINE = re.compile(r"\.(wait|item|synchronize|cpu|tolist|numpy|to)\(")


@dataclass(frozen=True)
class Frame:
    """One line of a stack."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line} in {self.name}"


@dataclass(frozen=True)
class StackVerdict:
    """A rank at one moment. ``entered``: its main thread is in a collective; None where that cannot be known
    (no stack, or it may be waiting for the device). ``where``: the innermost frame of the user's own code,
    "" where there is none."""

    entered: bool | None
    where: str
    state: str


class AskableRank(Protocol):
    """A rank that can be asked, as its launcher knows it."""

    pid: int

    def ask_stacks(self) -> None: ...


class Inquiry:
    """Asks the ranks of a node for their stacks, by rank, without waiting for them."""

    def __init__(self, ranks: Mapping[int, AskableRank], now_s: float) -> None:
        self._pids = {rank: one.pid for rank, one in ranks.items()}
        # A rank that is starting has a place for answers before it hears the question: it is not waited for.
        hears = [rank for rank, pid in self._pids.items() if catches(pid)]
        self._files = {
            rank: path for rank in hears if (path := stacks.answers_of(self._pids[rank])) is not None
        }
        self._since = {rank: _size(path) for rank, path in self._files.items()}
        self._signal_due_s: float | None = now_s + SIGNAL_AFTER_S
        self._until_s = now_s + ANSWER_S
        self._texts = dict.fromkeys(ranks, "")
        for rank in self._files:
            ranks[rank].ask_stacks()

    def poll(self, now_s: float) -> dict[int, str] | None:
        """The stacks by rank once all that can answer have, "" for the others; None as long as some may
        come."""
        before, self._texts = self._texts, self._texts | collect(self._files, self._since)
        awaited = [rank for rank in self._files if process_state(self._pids[rank]) not in (STOPPED, GONE)]
        complete = all(_complete(self._texts[rank], self._signal_due_s is None) for rank in awaited)
        settled = complete and self._texts == before
        if self._signal_due_s is not None and now_s >= self._signal_due_s:
            self._signal_due_s = None
            ask_by_signal(self._pids[rank] for rank in awaited if not self._texts[rank])
        return dict(self._texts) if settled or now_s >= self._until_s else None

    def judge(self) -> dict[int, StackVerdict]:
        """What the stacks of the last poll say, with the ranks' states now."""
        return {rank: judge(self._texts[rank], process_state(pid)) for rank, pid in self._pids.items()}


def ask_by_signal(pids: Iterable[int]) -> None:
    """Have ranks write down their stacks. The signal would kill a process that does not answer: it gets
    none."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if catches(pid):
                os.kill(pid, stacks.SIGNAL)


def collect(files: Mapping[int, str], since: Mapping[int, int]) -> dict[int, str]:
    """What was added to each rank's answers after ``since`` bytes; the ranks that are gone are left out."""
    added = {}
    for rank, path in files.items():
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            stream.seek(since[rank])
            added[rank] = stream.read().decode(errors="replace")
    return added


def keep(texts: Mapping[int, str], paths: Mapping[int, Path], heading: str) -> None:
    """Append stacks to the ranks' files. One that cannot be written is left out: a full disk is no reason to
    fail."""
    for rank, text in texts.items():
        if text:
            with contextlib.suppress(OSError), paths[rank].open("a", encoding="utf-8") as stream:
                stream.write(f"{heading}\n{text}\n")


def process_state(pid: int) -> str:
    """running, sleeping, stopped, uninterruptible or gone: of the process's main thread."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return GONE
    return _STATES.get(stat.rpartition(")")[2].split()[0], GONE)


def judge(
    stack_text: str, state: str, line_of: Callable[[str, int], str] = linecache.getline
) -> StackVerdict:
    """Read one answer of ``faulthandler`` (of all threads, most recent call first)."""
    threads = _threads(stack_text)
    main = _main_of(threads)
    if not main:
        return StackVerdict(None, "", state)
    folder = _script_folder(main)
    own = next((frame for frame in main if _is_own(frame, folder)), None)
    where = str(own) if own is not None else ""
    if _in_collective(main, folder):
        return StackVerdict(True, where, state)
    if main[0].name == _AUTOGRAD:
        others = any(_in_collective(frames, folder) for frames in threads if frames is not main)
        return StackVerdict(True if others else None, where, state)
    return StackVerdict(None if _may_wait(main[0], main[0] is own, line_of) else False, where, state)


def name_culprits(seen: Sequence[tuple[int, StackVerdict]]) -> list[int]:
    """The ranks that never entered the collective while others did, stopped ones first. Where it cannot be
    known of the rest, those that certainly did not; all when none differ."""
    order = {rank: _blame(one) for rank, one in seen}
    ranks = sorted(order, key=lambda rank: (order[rank], rank))
    for least_blame in (_NOT_ENTERED, _UNKNOWN):
        to_blame = [rank for rank in ranks if order[rank] <= least_blame]
        if to_blame and len(to_blame) < len(ranks):
            return to_blame
    return ranks


_NOT_ENTERED, _UNKNOWN, _ENTERED = 3, 4, 5


def _blame(one: StackVerdict) -> int:
    """Smallest first: stopped, gone, not let go by the kernel, elsewhere, not known, in the collective."""
    if one.state in (STOPPED, GONE):
        return (STOPPED, GONE).index(one.state)
    if one.entered:
        return _ENTERED
    if one.state == UNINTERRUPTIBLE:
        return 2
    return _UNKNOWN if one.entered is None else _NOT_ENTERED


def groups_of(answer: str) -> dict[str, GroupSeen]:
    """What a rank told of its process groups, see :func:`orchestrator.rank.collectives.groups`; empty where
    it was asked by a signal."""
    line = next((line for line in answer.splitlines() if line.startswith(stacks.GROUPS_MARK)), None)
    return _groups(line.removeprefix(stacks.GROUPS_MARK)) if line is not None else {}


def _groups(text: str) -> dict[str, GroupSeen]:
    """Nothing where a script has written to the file of its stacks itself."""
    try:
        body = papers.json_of(text)
        if not isinstance(body, dict) or not all(isinstance(one, dict) for one in body.values()):
            return {}
        return {name: papers.made(GroupSeen, one) for name, one in body.items()}
    except papers.PaperError:
        return {}


def main_thread(stack_text: str) -> list[Frame]:
    """Of one answer; innermost frame first, none where the rank did not answer."""
    return _main_of(_threads(stack_text))


def other_threads(stack_text: str) -> list[list[Frame]]:
    """All but the main one, innermost frame first."""
    threads = _threads(stack_text)
    main = _main_of(threads)
    return [frames for frames in threads if frames is not main]


def _complete(answer: str, signalled: bool) -> bool:
    """A thread's answer ends with the process groups, that on a signal with the oldest thread."""
    return answer.endswith("\n") and (signalled or stacks.GROUPS_MARK in answer)


def _threads(text: str) -> list[list[Frame]]:
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        # of more than a hundred the oldest are left out
        if line.startswith(("Thread 0x", "Current thread 0x", "...")):
            threads.append([])
        elif threads and (match := _FRAME.match(line)):
            threads[-1].append(Frame(match["file"], int(match["line"]), match["name"]))
    return threads


def _main_of(threads: Sequence[list[Frame]]) -> list[Frame]:
    """The one that our runner is at the bottom of. Very deep stacks are cut off there; the main thread is
    then the oldest one, which comes last."""
    ours = (frames for frames in threads if any(frame.file == _RUNNER for frame in frames))
    return next(ours, threads[-1] if threads else [])


def _script_folder(main: Sequence[Frame]) -> str | None:
    """Where the script lies: it was called by our runner. It may be below a folder of installed packages."""
    for inner, outer in itertools.pairwise(main):
        if outer.file == _RUNNER and inner.file != _RUNNER:
            return os.path.dirname(inner.file) + os.sep
    return None


def _is_own(frame: Frame, script_folder: str | None) -> bool:
    if frame.file.startswith(_OURS):
        return False
    return not _LIBRARY.search(frame.file.removeprefix(script_folder or ""))


def _in_collective(frames: Iterable[Frame], script_folder: str | None) -> bool:
    """Whether a collective was called, and nothing of the user's own from within it."""
    for frame in frames:
        if _is_own(frame, script_folder) or frame.name in _LEAVING:
            return False
        if _COLLECTIVE.search(frame.file) or _awaits_handle(frame):
            return True
    return False


def _may_wait(innermost: Frame, own: bool, line_of: Callable[[str, int], str]) -> bool:
    """Whether the innermost frame may be waiting for the device, or for a collective that was begun
    earlier."""
    if _STANDARD_LIBRARY.search(innermost.file):
        return False
    if not own and _MAY_WAIT_FOR_DEVICE.search(innermost.file):
        return True
    return _MAY_WAIT_IN_LINE.search(line_of(innermost.file, innermost.line)) is not None


def _awaits_handle(frame: Frame) -> bool:
    """DeepSpeed waits for gathers that it has begun earlier."""
    return frame.name == "wait" and "/deepspeed/runtime/" in frame.file


def catches(pid: int) -> bool:
    """Whether a process has a handler for the signal: one that is starting, or has become another program,
    has not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (stacks.SIGNAL - 1) & 1)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
