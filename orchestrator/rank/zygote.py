"""The zygote: a process that has imported the heavy modules and forks ranks from its main thread.

It does what `multiprocessing`'s fork server does not: the child unwinds to the top of the process
and runs the script there, as the main program of a real interpreter; a module that cannot be
imported is an error with a name; and nothing of the server is left in the child.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import setproctitle

from orchestrator.rank import control, runner
from orchestrator.rank.process import kill_group
from orchestrator.rank.spec import RankSpec

TITLE = "orchestrator zygote"
_PR_SET_PDEATHSIG = 1
_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_BURY_TIMEOUT_S = 1.0
# DeepSpeed's autotuner imports mlflow where it is installed: seconds, a native thread and a
# telemetry session in every rank. A script that wants mlflow can still import it.
_KEPT_OUT = ("mlflow",)


@dataclass(frozen=True)
class _Forked:
    """Returned in the child: what it has to run."""

    spec: RankSpec
    messages: socket.socket
    lifeline_fd: int


class _PreloadFailedError(Exception):
    def __init__(self, module: str, reason: str) -> None:
        super().__init__(module, reason)
        self.module = module
        self.reason = reason


def main() -> None:
    """Entry: `sys.argv` holds the control descriptor and the modules to import."""
    setproctitle.setproctitle(TITLE)
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    modules = sys.argv[2:]
    origin = runner.Origin(sys_path=sys.path[0 if sys.flags.safe_path else 1 :], cwd=os.getcwd())
    sys.path[:] = origin.sys_path
    sys.argv = [""]
    try:
        skipped = _preload(modules)
        _settle(modules)
    except _PreloadFailedError as error:
        control.send(channel, {"event": "failed", "module": error.module, "reason": error.reason})
        return
    control.send(channel, {"event": "ready", "skipped": skipped})
    forked = _Server(channel).serve()
    if forked is None:
        os._exit(0)
    runner.run(forked.spec, forked.messages, forked.lifeline_fd, origin)


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
        return "CUDA is initialised in the zygote, and a forked rank could not use it; a preloaded module did it"
    return None


class _Server:
    """Forks ranks on request, watches them, and takes them along when the launcher is gone."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._running: dict[int, int] = {}  # process id -> id of the request
        self._ended: set[int] = set()  # dead, reported, and not yet buried

    def serve(self) -> _Forked | None:
        """Serve until the launcher is gone. Returns in a child as well: with what it has to run."""
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *_STOP):
            signal.signal(number, _wake_only)
        try:
            while True:
                watched: list[Any] = [self._channel, self._wake_read]
                ready, _, _ = select.select(watched, [], [])
                if self._wake_read in ready and not _STOP.isdisjoint(os.read(self._wake_read, 4096)):
                    break
                self._report_ended()
                if self._channel in ready:
                    received = control.receive(self._channel)
                    if received is None:
                        break
                    forked = self._handle(*received)
                    if forked is not None:
                        return forked
        except OSError:  # the launcher died in the middle of a message
            pass
        self._end_all()
        return None

    def _end_all(self) -> None:
        pids = {*self._running, *self._ended}
        for pid in pids:
            kill_group(pid)
        deadline = time.monotonic() + _BURY_TIMEOUT_S  # one stuck in a driver call may never come
        while pids and time.monotonic() < deadline:
            pids = {pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)}
            time.sleep(0.005)

    def _handle(self, request: dict[str, Any], fds: list[int]) -> _Forked | None:
        if request["op"] == "bury":
            # Until now the dead leader kept its process id, and with it the group's, from being reused.
            os.waitpid(request["pid"], 0)
            self._ended.discard(request["pid"])
            return None
        messages_fd, lifeline_fd = fds
        try:
            reason, pid = _why_not_fork(), -1
            if reason is None:
                try:
                    pid = self._fork()
                except OSError as error:  # out of processes, memory or descriptors: no end of what runs
                    reason = f"fork failed: {error}"
            if reason is not None:
                control.send(self._channel, {"event": "refused", "id": request["id"], "reason": reason})
                return None
            if pid == 0:
                spec = RankSpec(**request["spec"])
                return _Forked(spec, socket.socket(fileno=os.dup(messages_fd)), os.dup(lifeline_fd))
            self._running[pid] = request["id"]
            control.send(self._channel, {"event": "forked", "id": request["id"], "pid": pid})
            return None
        finally:
            os.close(messages_fd)
            os.close(lifeline_fd)

    def _fork(self) -> int:
        """Fork; returns once the child leads a session of its own and will die with us."""
        zygote_pid = os.getpid()
        settled_read, settled_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != zygote_pid:
                os._exit(1)
            os.setsid()
            signal.set_wakeup_fd(-1)
            runner.reset_signals()
            self._channel.close()
            for fd in (self._wake_read, self._wake_write, settled_read, settled_write):
                os.close(fd)
            return 0
        os.close(settled_write)
        os.read(settled_read, 1)  # ends when the child has closed its copy
        os.close(settled_read)
        return pid

    def _report_ended(self) -> None:
        for pid, request_id in list(self._running.items()):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                continue
            kill_group(pid)  # what a rank leaves behind holds its devices and ports
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            del self._running[pid]
            self._ended.add(pid)
            control.send(self._channel, {"event": "exit", "id": request_id, "status": status})


def _wake_only(_number: int, _frame: object) -> None:
    """The wakeup descriptor does the work; a handler must exist for it to be written to."""
