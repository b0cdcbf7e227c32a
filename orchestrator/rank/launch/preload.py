"""Imports what the script is going to import, in the zygote, and says whether ranks may be forked after it.

A library is kept where a rank that has it from a fork cannot be told from one that has imported it: no thread
and no process of it runs, CUDA is untouched, and nothing that differs between ranks was read.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import FrameType
from typing import Any

# Marks of a module's name: one that may be missing, and one of the script's own, which may be left out.
OPTIONAL, OF_SCRIPT = "?", "~"
# Between a library that is not to be imported and why, among these names.
LEFT_OUT = "!"
# What a rank's environment holds beside what its specification says (DeepSpeed sets it as well):
# asking whether CUDA is there must not create a CUDA context.
SET_IN_EVERY_RANK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# What the launcher tells to each rank anew.
_TOLD_TO_EACH_RANK = (
    "RANK",
    "*_RANK",
    "WORLD_SIZE",
    "*_WORLD_SIZE",
    "ROLE_NAME",
    "MASTER_*",
    "TORCHELASTIC_*",
)
# These read the number of the rank from such a variable into `rank_zero_only.rank`, and are told it again
# after the fork.
TOLD_AGAIN = {
    "lightning.fabric.utilities.rank_zero": "RANK",
    "lightning_fabric.utilities.rank_zero": "RANK",
    "torchmetrics.utilities.prints": "LOCAL_RANK",
}
# Threads that know about fork: jemalloc's stops being needed in the child, which has none of it.
_FORKABLE_THREADS = frozenset({"jemalloc_bg_thd"})
# It has to meet the run's own store, which a rank offers before the script's first line.
_FOR_RANKS_ALONE = "mlflow"
_CUDA_IN_USE = "/dev/nvidia-uvm"  # opened when CUDA starts; what only counts GPUs does not open it
_LONGEST_REASON = 300
_THREADS_MAY_END_WITHIN_S = 1.0
_COPIES_OF_ALL = {view.__iter__.__code__ for view in (ItemsView, ValuesView)} | {
    type(os.environ).copy.__code__
}


@dataclass(frozen=True)
class Preloaded:
    """What became of the script's own imports; all travels as plain values.

    ``read`` are the variables that were read meanwhile, with what they were: a rank for which one of them is
    another would have imported something else.
    """

    imported: tuple[str, ...] = ()
    seconds: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)  # library -> why
    read: dict[str, str | None] = field(default_factory=dict, repr=False)

    def unlike(self, environment: Mapping[str, str]) -> list[str]:
        """Names of the variables that are others there."""
        return sorted(name for name, value in self.read.items() if environment.get(name) != value)


def of_script(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, marked as the script's own."""
    return tuple(name + OF_SCRIPT for name in names)


def library(name: str) -> str:
    """The package that a name of the list belongs to."""
    return name.rstrip(OPTIONAL + OF_SCRIPT).partition(":")[0].partition(".")[0]


def left_out_words(left_out: Mapping[str, str]) -> list[str]:
    """Libraries that an earlier zygote could not keep, and why, as words of a command."""
    return [f"{name}{LEFT_OUT}{' '.join(why.split())[:_LONGEST_REASON]}" for name, why in left_out.items()]


def left_out_in(names: Iterable[str]) -> dict[str, str]:
    """What these words say."""
    return {name: why for name, mark, why in (one.partition(LEFT_OUT) for one in names) if mark}


class UnfitLibraryError(Exception):
    """A library was imported, or could not be, and this process is none to fork ranks from any more."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, why


class ScriptImports:
    """Imports names like ``transformers:Trainer,TrainingArguments`` and remembers what that has changed."""

    def __init__(self, left_out: Mapping[str, str], began_with: Mapping[str, str]) -> None:
        """``began_with`` is this process's environment, before anything was imported, as a rank has it."""
        self.changed_environment: dict[str, str | None] = {}
        self._began_with = began_with
        self._left_out = dict(left_out)
        self._modules = set(sys.modules)
        self._used_cuda = _uses_cuda()
        self._read: set[str] = set()
        self._imported: list[str] = []
        self._seconds = 0.0

    def take(self, names: Sequence[str]) -> None:
        """Import all. Raises :class:`UnfitLibraryError` for the first that is not to be kept."""
        since, before = time.monotonic(), dict(os.environ)
        for name in names:
            try:
                with _watched_environment() as seen:
                    _import(name.removesuffix(OPTIONAL))
                reason = _told_to_each(seen)
            except ModuleNotFoundError as error:
                if error.name == library(name):  # nothing of it has run
                    if not name.endswith(OPTIONAL):
                        self._left_out[library(name)] = "it is not installed there"
                    continue
                reason = _in_words(error)
            except BaseException as error:  # noqa: BLE001 - a library may raise anything, SystemExit included
                reason = _in_words(error)
            self._read |= {variable for variable, _ in seen}
            reason = reason or self._remains()
            if reason is not None:
                raise UnfitLibraryError(library(name), reason)
            if library(name) not in self._imported:
                self._imported.append(library(name))
        now = dict(os.environ)
        self.changed_environment = {
            name: now.get(name) for name in {*before, *now} if before.get(name) != now.get(name)
        }
        self._seconds = time.monotonic() - since

    @property
    def modules(self) -> frozenset[str]:
        """What is there since."""
        return frozenset(set(sys.modules) - self._modules)

    def result(self) -> Preloaded:
        """What the launchers are told."""
        read = {name: self._began_with.get(name) for name in sorted(self._read - set(SET_IN_EVERY_RANK))}
        return Preloaded(tuple(self._imported), self._seconds, self._left_out, read)

    def _remains(self) -> str | None:
        if _FOR_RANKS_ALONE in sys.modules and _FOR_RANKS_ALONE not in self._modules:
            return f"it imports {_FOR_RANKS_ALONE}, which each rank has to import by itself"
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return "it leaves a process behind"
        if _uses_cuda() and not self._used_cuda:
            return "it starts CUDA, which a forked process cannot use"
        _let_threads_end()
        return why_not_fork()


def settled() -> None:
    """Have thread pools that know about fork (OpenBLAS's) end themselves, which they do when it happens; they
    start again where they are needed."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def why_not_fork() -> str | None:
    """Why a rank forked now could hang or find CUDA unusable; None when it is safe."""
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        return f"a fork needs a single thread, but these run: {names}; a preloaded module started one"
    if count := len(_unforkable_threads()):
        return (
            f"a fork needs a single thread, but {count + 1} native ones run; a preloaded module started "
            "them: leave it out of the preloaded modules, or set its library's number of threads to 1"
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return (
            "CUDA is initialised in the zygote, and a forked rank could not use it; a preloaded module did it"
        )
    return None


def _import(name: str) -> None:
    """Import a module and take the names that the script takes, which is what loads most of a lazy library.

    Which of them are there the script will see for itself.
    """
    module_name, _, attributes = name.partition(":")
    module = importlib.import_module(module_name)
    for attribute in filter(None, attributes.split(",")):
        with contextlib.suppress(Exception):
            getattr(module, attribute)


def _in_words(error: BaseException) -> str:
    """In one line, which has to fit into a command."""
    return " ".join(traceback.format_exception_only(type(error), error)[-1].split())[:_LONGEST_REASON]


def _told_to_each(seen: Iterable[tuple[str, str]]) -> str | None:
    names = sorted(
        {
            name
            for name, reader in seen
            if any(fnmatchcase(name, pattern) for pattern in _TOLD_TO_EACH_RANK) and reader not in TOLD_AGAIN
        }
    )
    return f"it reads {', '.join(names)} when it is imported, and each rank has its own" if names else None


@contextlib.contextmanager
def _watched_environment() -> Iterator[set[tuple[str, str]]]:
    """Which variables are read meanwhile, and by which module; who copies them all reads none."""
    kind: Any = type(os.environ)
    original, seen = kind.__getitem__, set()

    def read(environ: Any, name: str) -> Any:
        frame = sys._getframe(1)
        if frame.f_code not in _COPIES_OF_ALL and isinstance(name, str | bytes):
            seen.add((os.fsdecode(name), _reader(frame)))
        return original(environ, name)

    kind.__getitem__ = read
    try:
        yield seen
    finally:
        kind.__getitem__ = original


def _reader(frame: FrameType | None) -> str:
    """The module that asks, behind Python's own functions for it."""
    while frame is not None and frame.f_globals.get("__name__") in ("os", "collections.abc"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


def _let_threads_end() -> None:
    """One that has only something short to do may come to its end."""
    settled()
    deadline = time.monotonic() + _THREADS_MAY_END_WITHIN_S
    while (threading.active_count() > 1 or _unforkable_threads()) and time.monotonic() < deadline:
        time.sleep(0.02)


def _unforkable_threads() -> list[str]:
    """Those of the kernel's list beside this one, by name."""
    names = []
    for task in os.listdir("/proc/self/task"):
        if int(task) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
            names.append(file.read().strip())  # of one that has not ended meanwhile
    return [name for name in names if name not in _FORKABLE_THREADS]


def _uses_cuda() -> bool:
    """Whether CUDA has been started by whatever library, not by torch alone."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}") == _CUDA_IN_USE:
                return True
    return False
