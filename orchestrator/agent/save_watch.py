"""What the scripts of a node's ranks save by themselves, watched until it is whole.

A save is whole when no rank nor child of one has a file of it open for writing, each file is what its own
index says, and nothing has changed between two looks: a script may write one file after the other. Once no
rank is left, the first look counts. It is looked only while there is something to be seen, once a second at
most, and in a thread, since a folder may have thousands of files on a slow disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.agent.messages import EngineTold, Part, RankSavedFile, RankSaveWhole, RanksStepped
from orchestrator.agent.vitals import trees
from orchestrator.checkpoint.script_saves import ScriptSave, look_at

LOOK_EVERY_S = 1.0
# So often a name is looked at that is no checkpoint, or not yet: a folder is made before anything is in it.
_MOST_LOOKS = 60
# The next attempt must not begin before it is known what it finds; longer than that it does not wait for it.
_LAST_LOOK_S = 2.0


@dataclass(frozen=True)
class _Awaited:
    """A file or a folder, saved after ``step``. ``told``: the script's own call has said so; else a name has
    come into the folder of checkpoints, which may be anything."""

    step: int
    told: bool
    before: ScriptSave | None = None  # at the last look
    looks: int = 0


class SaveWatch:
    """Of one attempt on one node. ``finds``: it also looks for what nobody has told of."""

    def __init__(self, folder: Path, finds: bool) -> None:
        self._folder, self._finds = folder, finds
        self._awaited: dict[Path, _Awaited] = {}
        self._done: dict[Path, int] = {}
        self._thread = ThreadPoolExecutor(1, "saves")
        self._looking: Future[dict[Path, ScriptSave | None]] | None = None
        self._pids: Collection[int] = ()
        self._next_s = 0.0
        self._step = 0
        self._known = _names(folder)
        self._changed_ns = _changed_ns(folder)

    def poll(self, parts: Iterable[Part], pids: Collection[int], now_s: float) -> list[Part]:
        """What is whole since the last call; ``parts`` are what the ranks have said since, ``pids`` those
        that live."""
        for part in parts:
            match part:
                case EngineTold():
                    self._finds = False  # its checkpoints are told of
                case RanksStepped(step=step):
                    self._step = step
                case RankSavedFile(path=path, step=step):
                    self._await(self._entry_of(Path(path)), _Awaited(step, told=True))
        if pids:
            whole = self._seen()
            if self._looking is None and now_s >= self._next_s:
                self._next_s = now_s + LOOK_EVERY_S
                self._begin(pids)
            return whole
        whole = self._waited_for()
        self._begin(pids)
        return whole + self._waited_for()

    def close(self) -> None:
        """Look no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _begin(self, pids: Collection[int]) -> None:
        self._find()
        if self._awaited and self._looking is None:
            told = {path: one.told for path, one in self._awaited.items()}
            self._pids = tuple(pids)
            self._looking = self._thread.submit(_look, told, self._pids)

    def _waited_for(self) -> list[Part]:
        if self._looking is not None:
            wait([self._looking], _LAST_LOOK_S)
        return self._seen()

    def _await(self, path: Path, awaited: _Awaited) -> None:
        if self._done.get(path, -1) < awaited.step or not awaited.told:
            self._awaited[path] = awaited

    def _entry_of(self, path: Path) -> Path:
        """What is whole or not: in the folder of checkpoints what lies there, elsewhere what was named."""
        if self._folder not in path.parents:
            return path
        return self._folder / path.relative_to(self._folder).parts[0]

    def _find(self) -> None:
        changed_ns = _changed_ns(self._folder)
        if not self._finds or changed_ns == self._changed_ns:
            return
        self._changed_ns, names = changed_ns, _names(self._folder)
        for name in names - self._known:
            path = self._folder / name
            if path not in self._awaited and path not in self._done:
                self._await(path, _Awaited(self._step, told=False))
        self._known = names

    def _seen(self) -> list[Part]:
        if self._looking is None or not self._looking.done():
            return []
        looked, self._looking = self._looking.result(), None
        whole: list[Part] = []
        for path, save in looked.items():
            awaited = self._awaited.get(path)
            if awaited is None:
                continue
            last = not self._pids
            if save is not None and save.torn is None and (last or save == awaited.before):
                del self._awaited[path]
                step = awaited.step if awaited.told or save.step is None else save.step
                self._done[path] = step
                whole.append(RankSaveWhole(str(path), step, save.size_bytes))
            elif last or (save is None and awaited.looks >= _MOST_LOOKS):
                del self._awaited[path]  # it is no checkpoint, or never will be a whole one
            else:
                self._awaited[path] = replace(awaited, before=save, looks=awaited.looks + 1)
        return whole


def _look(told: Mapping[Path, bool], pids: Collection[int]) -> dict[Path, ScriptSave | None]:
    """What each is, None where it is no checkpoint; torn as long as somebody writes to it."""
    found: dict[Path, ScriptSave | None] = dict.fromkeys(told)
    for path, is_told in told.items():
        # It may be gone, and what is damaged may raise anything; no agent ends for that.
        with contextlib.suppress(Exception):
            found[path] = look_at(path, anything=is_told)
    open_files = open_for_writing(pids)
    for path, save in found.items():
        place = os.path.realpath(path)
        if save is not None and any(one == place or one.startswith(f"{place}/") for one in open_files):
            found[path] = replace(save, torn="it is being written")
    return found


def open_for_writing(pids: Collection[int]) -> set[str]:
    """The files that these processes and their children have open and can write to."""
    found = set()
    for pid in frozenset(pids).union(*trees(pids).values()):
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = os.readlink(f"/proc/{pid}/fd/{number}")
                    if path.startswith("/") and _is_writable(Path(f"/proc/{pid}/fdinfo/{number}")):
                        found.add(path)
    return found


def _is_writable(info: Path) -> bool:
    flags = next((line for line in info.read_text().splitlines() if line.startswith("flags:")), "flags: 0")
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY


def _names(folder: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    return set()


def _changed_ns(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime_ns
    return 0
