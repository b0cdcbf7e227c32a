"""Runs the user's script as one rank, in a process that was forked from a zygote or exec'd.

The script must not be able to tell that it was not started by `python script.py`. So it runs at
the top of the process's main function, and the interpreter shuts down by itself afterwards:
threads are joined, `atexit` handlers run, exit statuses are the interpreter's own.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NoReturn

import setproctitle

from orchestrator.errors import OrchestratorError
from orchestrator.events import Fault
from orchestrator.files import NO_SPACE
from orchestrator.rank import program, stacks, stop_signals, tracking
from orchestrator.rank.launch.preload import SET_IN_EVERY_RANK, TOLD_AGAIN
from orchestrator.rank.link import RankLink
from orchestrator.rank.messages import PhaseBegun, ScriptFailed, StacksUnavailable
from orchestrator.rank.probes import import_hook
from orchestrator.rank.probes.hydra_time import begin_together
from orchestrator.rank.probes.rank_probes import RankProbes
from orchestrator.rank.rendezvous import listen_at_own_address
from orchestrator.rank.spec import RankSpec
from orchestrator.vocabulary import ProgramKind

TRACEBACK_TAIL_LINES = 20
# What Python and torch say on the host; a GPU's memory is the job's own affair.
_NO_MEMORY = ("MemoryError", "RuntimeError: [enforce fail at alloc_cpu.cpp")
_NO_SPACE = ("[Errno 28]", "[Errno 122]", "No space left on device", "Disk quota exceeded")
# Frames of these are left out of what is shown of an error: the script's own come after them.
_OURS = (globals(), vars(program))


@dataclass(frozen=True)
class Origin:
    """What a forked rank must know of its zygote to look freshly started."""

    sys_path: list[str]
    cwd: str
    # What the script's own libraries have set or taken away when the zygote imported them, and what was there
    # before; and the modules that are there since.
    changed_environment: Mapping[str, str | None] = field(default_factory=dict)
    preloaded: frozenset[str] = frozenset()
    began_with: Mapping[str, str] = field(default_factory=dict)


def main() -> None:
    """Entry of an exec'd rank: `sys.argv` holds three descriptors, the last that of a file with the
    specification."""
    stacks.stop_answering_at_exit()
    messages_fd, lifeline_fd, spec_fd = map(int, sys.argv[1:4])
    os.set_inheritable(messages_fd, False)
    os.set_inheritable(lifeline_fd, False)
    with os.fdopen(spec_fd, "rb") as spec_file:
        spec = replace(RankSpec.from_json(spec_file.read()), env=dict(os.environ))
    run(spec, socket.socket(fileno=messages_fd), lifeline_fd, origin=None)


def run(spec: RankSpec, messages: socket.socket, lifeline_fd: int, origin: Origin | None) -> None:
    """Become the rank and run its script; `origin` is given when the process was forked."""
    if os.getpid() != os.getsid(0):
        # A session of its own: a process group to kill, no terminal to be signalled from.
        os.setsid()
    reset_signals()
    stop_signals.prepare(spec.stop_signals)
    _redirect_output(spec.log_path)
    setproctitle.setproctitle(spec.title)
    _replace_environment(spec.env)
    os.chdir(spec.cwd)
    script = _script_path(spec)
    if origin is not None:
        _set_as_imported(origin, spec.env)
        _refresh_forked_state()
        import_hook.came_before_probes(origin.preloaded)
    _set_path(script, spec, origin)

    link = RankLink(messages, lifeline_fd)
    _answer_when_asked(link)
    link.start()
    probes = RankProbes(link, spec.snapshot)
    if spec.tracking is not None:
        tracking.offer_to_mlflow(link, spec.tracking)
    atexit.register(_finish, probes, link)
    probes.attach_when_imported()
    listen_at_own_address()
    if spec.began_unix_s is not None:
        begin_together(spec.began_unix_s)
    if spec.kind != ProgramKind.COMMAND:  # which runs in a process of its own, and is heard by this one
        _forget_ourselves()
    _run_script(spec, script, probes, link)


def _answer_when_asked(link: RankLink) -> None:
    try:
        link.answer = stacks.Answers().write
    except OSError as error:  # at a hang its stacks will be missing
        link.send(StacksUnavailable(str(error)))


def _run_script(spec: RankSpec, script: str, probes: RankProbes, link: RankLink) -> None:
    run = program.python_program(spec, script) if spec.kind != ProgramKind.COMMAND else None
    link.enter("import")
    link.send(PhaseBegun("import"))
    try:
        run() if run is not None else program.run_command(spec, link)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - it is reported and raised again
        _report(error, probes, link)


def _fault_of(error: BaseException) -> str | None:
    """Which fault of an attempt an error is, where its type says so and not only its words."""
    if isinstance(error, MemoryError):
        return str(Fault.MEMORY)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return str(Fault.DISK)
    if error.__cause__ is not None:
        return _fault_of(error.__cause__)
    return getattr(error, "fault", None) if isinstance(error, OrchestratorError) else None


def _fault_in_words(words: str) -> str | None:
    """The same for errors of other libraries, some of which say it in words alone, when they wrap what Python
    has raised."""
    if words.startswith(_NO_MEMORY):
        return str(Fault.MEMORY)
    return str(Fault.DISK) if any(each in words for each in _NO_SPACE) else None


def _report(error: BaseException, probes: RankProbes, link: RankLink) -> NoReturn:
    """Tell the agent, let the script's own hook print, and end as the interpreter would."""
    trace = error.__traceback__
    while trace is not None and any(trace.tb_frame.f_globals is ours for ours in _OURS):
        trace = trace.tb_next
    tail = "".join(traceback.format_exception(type(error), error, trace)).splitlines()
    traceback_tail = "\n".join(tail[-TRACEBACK_TAIL_LINES:])
    kind, message = type(error).__qualname__, str(error)
    fault = _fault_of(error) or _fault_in_words(f"{kind}: {message.strip()}".partition("\n")[0])
    link.send(ScriptFailed(kind, message, traceback_tail, fault, link.step))
    probes.abandon()
    # The exception goes on to the interpreter, which chooses the exit status (and dies by SIGINT
    # after KeyboardInterrupt); it has been printed by then, from the script's first frame on.
    # A hook that fails stays, for the interpreter to report.
    with contextlib.suppress(BaseException):
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.excepthook = _print_nothing
    raise error


def _print_nothing(_type: type[BaseException], _error: BaseException, _trace: TracebackType | None) -> None:
    pass


def _finish(probes: RankProbes, link: RankLink) -> None:
    """Registered before the script's `atexit` handlers, so it runs after them."""
    link.enter("exit")
    probes.flush()
    if link.at_heartbeat is not None:
        link.at_heartbeat()
    link.send(PhaseBegun("exit"))
    link.close()


def reset_signals() -> None:
    """Handlers and mask as in a fresh interpreter, whatever the parent had."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        wanted = _FRESH_HANDLERS.get(number, signal.SIG_DFL)
        # One that is right already is left alone: faulthandler's are set where Python does not look.
        if signal.getsignal(number) not in (wanted, None):
            signal.signal(number, wanted)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


_FRESH_HANDLERS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGPIPE: signal.SIG_IGN,
    signal.SIGXFSZ: signal.SIG_IGN,
}


def _replace_environment(env: dict[str, str]) -> None:
    wanted = {**SET_IN_EVERY_RANK, **env}
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)
    time.tzset()


def _set_as_imported(origin: Origin, env: Mapping[str, str]) -> None:
    """What libraries set for themselves when they were imported, as if that had happened here."""
    for name, value in origin.changed_environment.items():
        if env.get(name) != origin.began_with.get(name):
            continue  # they would have met something else
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _redirect_output(log_path: str) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    null_fd = os.open(os.devnull, os.O_RDONLY)
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null_fd, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(null_fd)
    os.close(log_fd)
    # By lines and not by writes: lines of a rank and its workers then stay whole in the file.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _script_path(spec: RankSpec) -> str:
    return os.path.join(os.getcwd(), spec.script)


def _set_path(script: str, spec: RankSpec, origin: Origin | None) -> None:
    # as Python has it: a link to a script stands for the script, and a module is looked for from here
    first = os.getcwd() if spec.module is not None else os.path.dirname(os.path.realpath(script))
    folder = [] if sys.flags.safe_path else [first]
    if origin is None:
        sys.path[:] = folder + sys.path[0 if sys.flags.safe_path else 1 :]
        return
    # A relative entry of PYTHONPATH, or an empty one, was resolved where the zygote was started.
    entries = spec.env["PYTHONPATH"].split(os.pathsep) if spec.env.get("PYTHONPATH") else []
    moved = {
        os.path.realpath(os.path.join(origin.cwd, entry)): os.path.abspath(entry)
        for entry in entries
        if not os.path.isabs(entry)
    }
    base = (
        [moved.get(os.path.realpath(entry), entry) for entry in origin.sys_path] if moved else origin.sys_path
    )
    # What a preloaded module added for itself stays, behind.
    sys.path[:] = [*folder, *base, *(entry for entry in sys.path if entry not in origin.sys_path)]
    importlib.invalidate_caches()


def _refresh_forked_state() -> None:
    """What every interpreter draws or looks up for itself when it starts or imports a library.

    `random` reseeds itself in a forked child; the rest does not.
    """
    for name in ("multiprocessing.process", "multiprocess.process"):  # the latter is that of datasets
        process: Any = sys.modules.get(name)
        if process is not None:
            process.ORIGINAL_DIR = os.getcwd()
            process.current_process().authkey = os.urandom(32)
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()
    for name, variable in TOLD_AGAIN.items():
        if (module := sys.modules.get(name)) is not None and variable in os.environ:
            module.rank_zero_only.rank = int(os.environ[variable])


def _forget_ourselves() -> None:
    """The script may have a package of its own that is called as ours is."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "orchestrator"]:
        del sys.modules[name]
