"""The zygote: a process that has imported the heavy modules and forks ranks from its main thread.

It does what `multiprocessing`'s fork server does not: the child unwinds to the top of the process
and runs the script there, as the main program of a real interpreter; a module that cannot be
imported is an error with a name; and nothing of the server is left in the child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import NoReturn

import psutil
import setproctitle

from orchestrator.rank import runner, stacks
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.preload import (
    LEFT_OUT,
    OF_SCRIPT,
    OPTIONAL,
    ScriptImports,
    UnfitLibraryError,
    left_out_in,
    left_out_words,
    library,
    settled,
    why_not_fork,
)
from orchestrator.rank.launch.process import boot_command
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
    began_with = dict(os.environ)
    stacks.stop_answering_at_exit()  # in the ranks: before the preloaded modules register theirs
    owner, listener = _socket(sys.argv[1]), _socket(sys.argv[2])
    assert owner is not None, "a zygote without an owner would never end"
    left_out = left_out_in(sys.argv[3:])
    names = [name for name in sys.argv[3:] if LEFT_OUT not in name]
    modules = [name for name in names if not name.endswith(OF_SCRIPT)]
    of_script = [name.removesuffix(OF_SCRIPT) for name in names if name.endswith(OF_SCRIPT)]
    sys_path, cwd = sys.path[0 if sys.flags.safe_path else 1 :], os.getcwd()
    sys.path[:] = sys_path
    sys.argv = [""]
    imports = ScriptImports(left_out, began_with)
    try:
        skipped = _preload(modules)
        _ask_compilers()
        _check(modules)
        imports = ScriptImports(left_out, began_with)
        imports.take(of_script)
    except _PreloadFailedError as error:
        wire.send(owner, {"event": "failed", "module": error.module, "reason": error.reason})
        return
    except UnfitLibraryError as error:
        left_out[error.name] = error.why
        _begin_again(owner, listener, [*modules, *_without(of_script, error.name)], left_out, began_with)
    gc.collect()
    gc.freeze()  # a collection in a rank must not touch, and so copy, what is shared
    ready = {"event": "ready", "skipped": skipped, "preloaded": asdict(imports.result())}
    forked = Server(owner, listener, ready, why_not_fork).serve()
    if forked is None:
        os._exit(0)
    origin = runner.Origin(sys_path, cwd, imports.changed_environment, imports.modules, began_with)
    runner.run(forked.spec, forked.messages, forked.lifeline_fd, origin)


def _without(of_script: Sequence[str], name: str) -> list[str]:
    return [one + OF_SCRIPT for one in of_script if library(one) != name]


def _begin_again(
    owner: socket.socket,
    listener: socket.socket | None,
    names: Sequence[str],
    left_out: Mapping[str, str],
    environment: Mapping[str, str],
) -> NoReturn:
    """The same process as a new program, which ends all threads, without what was not to be kept."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0):
            pass
    for channel in filter(None, (owner, listener)):
        channel.set_inheritable(True)
    runner.reset_signals()
    descriptors = [str(owner.fileno()), str(listener.fileno() if listener else -1)]
    module = "orchestrator.rank.launch.zygote"
    command = boot_command(sys.executable, module, *descriptors, *names, *left_out_words(left_out))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)


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
            name = module.rstrip(OPTIONAL)
            try:
                importlib.import_module(name)
            except BaseException as error:
                if (
                    module.endswith(OPTIONAL)
                    and isinstance(error, ModuleNotFoundError)
                    and error.name == name
                ):
                    skipped.append(name)
                    continue
                reason = traceback.format_exception_only(type(error), error)[-1].strip()
                raise _PreloadFailedError(name, reason) from error
    finally:
        for name in kept_out:
            sys.modules.pop(name, None)
    return skipped


def _ask_compilers() -> None:
    """Once for all ranks; the probes then switch one of the answers off."""
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is not None and os.environ.get("DS_ACCELERATOR") == "cpu":
        _ = deepspeed.ops.__compatible_ops__


def _check(modules: Iterable[str]) -> None:
    settled()
    if (reason := why_not_fork()) is not None:
        raise _PreloadFailedError(" ".join(modules), reason)
