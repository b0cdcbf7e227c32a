"""The zygote: a process that has imported the heavy modules and forks ranks from its main thread.

It does what `multiprocessing`'s fork server does not: the child unwinds to the top of the process
and runs the script there, as the main program of a real interpreter; a module that cannot be
imported is an error with a name; and nothing of the server is left in the child.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterable

import setproctitle

from orchestrator.rank import runner, stacks
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.zygote_server import Server

TITLE = "orchestrator zygote"
# DeepSpeed's autotuner imports mlflow where it is installed: seconds, a native thread and a
# telemetry session in every rank. A script that wants mlflow can still import it.
_KEPT_OUT = ("mlflow",)


class _PreloadFailedError(Exception):
    def __init__(self, module: str, reason: str) -> None:
        super().__init__(module, reason)
        self.module = module
        self.reason = reason


def main() -> None:
    """Entry: `sys.argv` holds the owner's channel, a listening socket or -1, and the modules to import."""
    setproctitle.setproctitle(TITLE)
    stacks.stop_answering_at_exit()  # in the ranks: before the preloaded modules register theirs
    owner, listener = _socket(sys.argv[1]), _socket(sys.argv[2])
    assert owner is not None, "a zygote without an owner would never end"
    modules = sys.argv[3:]
    origin = runner.Origin(sys_path=sys.path[0 if sys.flags.safe_path else 1 :], cwd=os.getcwd())
    sys.path[:] = origin.sys_path
    sys.argv = [""]
    try:
        skipped = _preload(modules)
        _settle(modules)
    except _PreloadFailedError as error:
        wire.send(owner, {"event": "failed", "module": error.module, "reason": error.reason})
        return
    forked = Server(owner, listener, {"event": "ready", "skipped": skipped}, _why_not_fork).serve()
    if forked is None:
        os._exit(0)
    runner.run(forked.spec, forked.messages, forked.lifeline_fd, origin)


def _socket(descriptor: str) -> socket.socket | None:
    if descriptor == "-1":
        return None
    inherited = socket.socket(fileno=int(descriptor))
    inherited.set_inheritable(False)
    return inherited


def _preload(modules: Iterable[str]) -> list[str]:
    """Import all; return those marked as optional (`name?`) that do not exist."""
    modules = list(modules)
    kept_out = [name for name in _KEPT_OUT if name not in modules and name not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_out))  # type: ignore[arg-type]  # None: not to be found
    skipped = []
    try:
        for module in modules:
            name = module.rstrip("?")
            try:
                importlib.import_module(name)
            except BaseException as error:
                if module.endswith("?") and isinstance(error, ModuleNotFoundError) and error.name == name:
                    skipped.append(name)
                    continue
                reason = traceback.format_exception_only(type(error), error)[-1].strip()
                raise _PreloadFailedError(name, reason) from error
    finally:
        for name in kept_out:
            sys.modules.pop(name, None)
    return skipped


def _settle(modules: Iterable[str]) -> None:
    """Bring the process into the state that every rank is forked from."""
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is not None and os.environ.get("DS_ACCELERATOR") == "cpu":
        # Asks compilers, once for all ranks; the probes then switch one of the answers off.
        _ = deepspeed.ops.__compatible_ops__
    gc.collect()
    gc.freeze()  # a collection in a rank must not touch, and so copy, what is shared
    # Thread pools that know about fork (OpenBLAS's) end themselves when it happens, and start
    # again where they are needed. After one fork only those are left that do not.
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    if (reason := _why_not_fork()) is not None:
        raise _PreloadFailedError(" ".join(modules), reason)


def _why_not_fork() -> str | None:
    """Why a rank forked now could hang or find CUDA unusable; None when it is safe."""
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        return f"a fork needs a single thread, but these run: {names}; a preloaded module started one"
    tasks = os.listdir("/proc/self/task")
    if len(tasks) != 1:
        return (
            f"a fork needs a single thread, but {len(tasks)} native ones run; a preloaded module started "
            "them: leave it out of the preloaded modules, or set its library's number of threads to 1"
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return (
            "CUDA is initialised in the zygote, and a forked rank could not use it; a preloaded module did it"
        )
    return None
