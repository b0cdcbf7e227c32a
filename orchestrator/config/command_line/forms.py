"""Which kind of command it is: a launcher's, an interpreter's, a script, another program."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.config.command_line import child
from orchestrator.config.command_line.launch import Launch
from orchestrator.config.programs import find_command, is_python_script
from orchestrator.errors import ConfigError
from orchestrator.vocabulary import ProgramKind

_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_PYTHON = re.compile(r"python[\d.]*|pypy[\d.]*")
# What python -m runs that is a launcher, by the name that the child knows.
_LAUNCHER_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torch.distributed.launch",
    "deepspeed": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed",
    "accelerate.commands.launch": "accelerate launch",
}
_LAUNCHERS = {
    "torchrun": "torchrun",
    "deepspeed": "deepspeed",
    "ds": "deepspeed",
    "accelerate-launch": "accelerate launch",
}
# Programs that start others: what they are given would start its ranks once more, in every rank.
_STARTERS = (
    "srun", "mpirun", "mpiexec", "horovodrun", "uv", "poetry", "pdm", "pipenv", "conda", "mamba",
    "micromamba", "ray", "fabric", "lightning", "colossalai", "nohup", "sudo", "time", "timeout", "numactl",
    "taskset",
)  # fmt: skip
# An interpreter's flags that are variables as well, and what they set.
_FLAGS_WITHOUT_VALUE = {
    "-O": ("PYTHONOPTIMIZE", "1"),
    "-OO": ("PYTHONOPTIMIZE", "2"),
    "-B": ("PYTHONDONTWRITEBYTECODE", "1"),
    "-s": ("PYTHONNOUSERSITE", "1"),
    "-P": ("PYTHONSAFEPATH", "1"),
    "-v": ("PYTHONVERBOSE", "1"),
    "-u": ("", ""),  # what ranks print is written by lines in any case
}
_FLAGS_OF_X = {
    "dev": ("PYTHONDEVMODE", "1"),
    "faulthandler": ("PYTHONFAULTHANDLER", "1"),
    "importtime": ("PYTHONPROFILEIMPORTTIME", "1"),
    "utf8": ("PYTHONUTF8", "1"),
    "utf8=0": ("PYTHONUTF8", "0"),
    "frozen_modules=off": ("", ""),
}


def launch_of(
    command: Sequence[str], cwd: Path, ask: Callable[[str, Sequence[str]], Launch] = child.ask
) -> Launch:
    """What a command asks for. ``cwd`` is where its paths are looked up; ``ask`` reads a launcher's flags.

    Raises :class:`ConfigError` for what is no command, and for what cannot be done here.
    """
    environment: dict[str, str] = {}
    rest = [*command]
    if rest[:1] == ["env"]:
        rest.pop(0)
    while rest and (match := _VARIABLE.fullmatch(rest[0])):
        environment[match[1]] = match[2]
        rest.pop(0)
    if not rest:
        raise ConfigError(
            "--: a command has to follow, e.g. -- torchrun --nproc_per_node=2 train.py, or -- python train.py"
        )
    launch = _launch(rest[0], rest[1:], cwd, ask)
    return replace(launch, environment={**environment, **launch.environment})


def _launch(first: str, words: list[str], cwd: Path, ask: Callable[[str, Sequence[str]], Launch]) -> Launch:
    name = os.path.basename(first)
    if first.startswith("-"):
        raise ConfigError(f"-- {first}: a program has to come first, e.g. -- python train.py {first}")
    if name in _LAUNCHERS:
        return ask(_LAUNCHERS[name], words)
    if name == "accelerate":
        if words[:1] != ["launch"]:
            raise ConfigError(
                f"-- {' '.join([name, *words[:1]])}: trains nothing; only accelerate launch does"
            )
        return ask("accelerate launch", words[1:])
    if _PYTHON.fullmatch(name):
        return _python(first, words, ask)
    if name in _STARTERS:
        raise ConfigError(
            f"-- {name} …: starts other programs, and each rank would start them once more; leave it out:"
            f" ranks are started here, in the environment of {sys.executable}"
        )
    if (cwd / first).is_file() and first.endswith(".py"):
        return Launch(ProgramKind.SCRIPT, first, tuple(words))
    path = find_command(first, cwd)
    if is_python_script(path):  # a console script: run as Python, it is seen as any script is
        return Launch(ProgramKind.SCRIPT, first if os.sep in first else str(path), tuple(words))
    return Launch(ProgramKind.COMMAND, first, tuple(words))


def _python(python: str, words: list[str], ask: Callable[[str, Sequence[str]], Launch]) -> Launch:
    """``python [FLAGS] SCRIPT …`` and ``python [FLAGS] -m MODULE …``."""
    if os.sep in python and os.path.dirname(os.path.abspath(python)) != os.path.dirname(sys.executable):
        raise ConfigError(
            f"-- {python}: ranks run in the environment of {sys.executable}; write python, or install"
            " orchestrator in that one and run it there"
        )
    environment: dict[str, str] = {}
    while words and words[0].startswith("-") and words[0] != "-":
        flag = words.pop(0)
        if flag.startswith("-m"):
            module = flag[2:] or (words.pop(0) if words else "")
            if module in _LAUNCHER_MODULES:
                launch = ask(_LAUNCHER_MODULES[module], words)
                return replace(launch, environment={**environment, **launch.environment})
            return Launch(ProgramKind.MODULE, module, tuple(words), environment=environment)
        name, value = _as_variable(flag, words)
        if name:
            earlier = environment.get(name)
            environment[name] = f"{earlier},{value}" if name == "PYTHONWARNINGS" and earlier else value
    if not words or words[0] == "-":
        raise ConfigError(f"-- {python}: a script has to follow, or -m and a module")
    return Launch(ProgramKind.SCRIPT, words[0], tuple(words[1:]), environment=environment)


def _as_variable(flag: str, words: list[str]) -> tuple[str, str]:
    """The variable that stands for an interpreter's flag, whose value is taken out of ``words``."""
    if flag in _FLAGS_WITHOUT_VALUE:
        return _FLAGS_WITHOUT_VALUE[flag]
    if flag[:2] in ("-W", "-X"):
        value = flag[2:] or (words.pop(0) if words else "")
        if flag.startswith("-W"):
            return "PYTHONWARNINGS", value
        if value in _FLAGS_OF_X:
            return _FLAGS_OF_X[value]
        flag = f"-X {value}"
    raise ConfigError(
        f"-- python {flag}: cannot be asked of a rank; leave it out, and name a script or -m and a module"
    )
