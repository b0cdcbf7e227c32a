"""What a rank runs: a script or a module as `__main__`, or another program as a child.

As `python script.py` and `python -m module` would: the same `sys.argv`, `__spec__`, `__package__` and module
`__main__`, and the same words and exit status where there is nothing to run.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from typing import Any, NoReturn

from orchestrator.rank.inner.listener import Listener
from orchestrator.rank.link import Link
from orchestrator.rank.spec import RankSpec

Program = Callable[[], object]
_PR_SET_PDEATHSIG = 1
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "busybox")


def python_program(spec: RankSpec, script: str) -> Program:
    """The script or module, ready to be run as `__main__`. Ends the rank where there is none."""
    if spec.module is None:
        return _script(spec, script)
    return _module(spec, spec.module)


def _script(spec: RankSpec, script: str) -> Program:
    sys.argv = [spec.script, *spec.args]
    sys.orig_argv = [sys.executable, spec.script, *spec.args]
    try:
        with io.open_code(script) as file:
            source = file.read()
    except OSError as error:
        sys.stderr.write(
            f"{sys.executable}: can't open file {script!r}: [Errno {error.errno}] {error.strerror}\n"
        )
        sys.exit(2)
    names = _become_main(script, SourceFileLoader("__main__", script), None, None)
    return lambda: exec(compile(source, script, "exec", dont_inherit=True), names)


def _module(spec: RankSpec, module: str) -> Program:
    sys.argv = ["-m", *spec.args]  # as the module's packages find it while they are imported
    sys.orig_argv = [sys.executable, "-m", module, *spec.args]

    def program() -> None:
        found = _found(module)
        if found is not None and found.submodule_search_locations is not None:
            found = _found(f"{module}.__main__")
        loader: Any = found.loader if found is not None else None
        code = loader.get_code(found.name) if found is not None and hasattr(loader, "get_code") else None
        if found is None or code is None:
            sys.stderr.write(f"{sys.executable}: No module named {module}\n")
            sys.exit(1)
        sys.argv[0] = str(found.origin)
        exec(code, _become_main(str(found.origin), loader, found, found.cached))

    return program


def _found(module: str) -> ModuleSpec | None:
    """Imports the packages around it, as `python -m` does; what these raise is the job's own error."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise


def _become_main(file: str, loader: object, spec: ModuleSpec | None, cached: str | None) -> dict[str, Any]:
    module = types.ModuleType("__main__")
    module.__dict__.update(
        __annotations__={},
        __builtins__=sys.modules["builtins"],
        __cached__=cached,
        __file__=file,
        __loader__=loader,
        __package__=spec.parent if spec is not None else None,
        __spec__=spec,
    )
    sys.modules["__main__"] = module
    if "__mp_main__" in sys.modules:  # the name that multiprocessing knew the main module by when imported
        sys.modules["__mp_main__"] = module
    return module.__dict__


def run_command(spec: RankSpec, link: Link) -> NoReturn:
    """Run a program that is no Python script, and end as it ends. What trains inside of it is heard.

    It is a child, and not this process: the tie to the agent is held by threads, which no exec survives. What
    the agent ends, it ends by process group, so the child goes too.
    """
    # Made ready before the fork, between which and exec nothing may be imported.
    die_with_us = ctypes.CDLL(None).prctl

    def begin() -> None:
        die_with_us(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # What a rank's children do not hear is theirs to hear: this one stands for the rank.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    listener = Listener(link, spec.tracking)
    listener.start()
    try:
        child = subprocess.Popen(
            [spec.script, *spec.args],
            preexec_fn=begin,
            env=listener.environment(),
        )
    except OSError as error:
        sys.stderr.write(f"{spec.script}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
    signal.signal(signal.SIGTERM, lambda *_: _stop(child.pid))
    status = child.wait()
    listener.finish()
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    # Nothing of this process is to be said: it is the program that has ended.
    sys.exit(status)


def _stop(pid: int) -> None:
    """Have the program end as it does after SIGTERM, with what its shells wait for ended before them.

    A shell would die of it at once and leave behind what is still to save, and one that hears nothing of it
    would go on with its next line. What programs that are no shells have started is theirs to end, data
    loaders say.
    """
    import psutil

    shells: list[Any] = []
    programs: list[Any] = []
    with contextlib.suppress(psutil.Error):
        _sort(psutil.Process(pid), shells, programs)
    for process in programs:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    for process in programs:
        _await_end(process)
    for shell in reversed(shells):  # from the inside
        with contextlib.suppress(psutil.Error):
            shell.terminate()
            shell.resume()
        _await_end(shell)


def _sort(process: Any, shells: list[Any], programs: list[Any]) -> None:
    """Into shells that wait for others, which are held from here on, and programs."""
    if os.path.basename(process.exe()) not in _SHELLS or not process.children():
        programs.append(process)
        return
    process.suspend()
    shells.append(process)
    for child in process.children():
        _sort(child, shells, programs)


def _await_end(process: Any) -> None:
    """Until it runs no more; whoever has started it may be held, and does not ask how it ended."""
    import psutil

    with contextlib.suppress(psutil.Error):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
