"""Where the program of a job is on this machine: a module's file, a program on PATH."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from orchestrator.errors import ConfigError

_LINE_BYTES = 256


def find_module(module: str, cwd: Path, python_path: str = "") -> Path:
    """The file that ``python -m MODULE`` runs from ``cwd``. Nothing is imported for it, its packages neither.

    Raises :class:`ConfigError` where there is none.
    """
    own = [str(cwd / entry) for entry in python_path.split(os.pathsep) if entry]
    found: ModuleSpec | None = None
    where: Sequence[str] = [str(cwd), *own, *sys.path]
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        inside = ".".join(parts[: count - 1])
        part = parts[count - 1]
        # By its last part alone: of a whole name Python would look for the parents among what is imported.
        found = _find(part, where, top=count == 1) if part.isidentifier() else None
        if found is None or (count < len(parts) and found.submodule_search_locations is None):
            near = f"; {inside} is there and has no {part}" if inside and found is None else ""
            raise ConfigError(
                f"job.module={module}: no such module, looked for from {cwd} and among what is installed"
                f"{near}; run the command in the folder that holds it, or set job.cwd to that folder"
            )
        where = list(found.submodule_search_locations or ())
    if found is not None and found.submodule_search_locations is not None:
        found = _find("__main__", where)
        if found is None:
            raise ConfigError(
                f"job.module={module}: a package without a module __main__; name the module that runs, e.g."
                f" job.module={module}.train"
            )
    if found is None or not found.origin or not found.origin.endswith((".py", ".pyc")):
        raise ConfigError(f"job.module={module}: has no file that can be run; give a module of Python source")
    return Path(found.origin)


def _find(name: str, where: Sequence[str], top: bool = False) -> ModuleSpec | None:
    spec = PathFinder.find_spec(name, where)
    if spec is not None or not top:
        return spec
    # what is installed to be edited may be known to a finder of its own only
    others = (finder for finder in sys.meta_path if finder is not PathFinder and hasattr(finder, "find_spec"))
    return next((found for finder in others if (found := finder.find_spec(name, None, None))), None)


def find_command(command: str, cwd: Path) -> Path:
    """The program that a shell in ``cwd`` would run, the interpreter's own folder before ``PATH``.

    Raises :class:`ConfigError` where there is none, and where it may not be run.
    """
    if os.sep in command:
        path = Path(os.path.abspath(cwd / Path(command).expanduser()))
        if not path.is_file():
            raise ConfigError(f"job.command={command}: no such file at {path}; give the path of a program")
        if not os.access(path, os.X_OK):
            raise ConfigError(
                f"job.command={command}: it is no program as it is; chmod +x {path}, or name what runs it:"
                f" bash {command}"
            )
        return path
    places = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))
    found = shutil.which(command, path=places)
    if found is None:
        here = f"; for the file here write ./{command}" if (cwd / command).is_file() else "; give its path"
        raise ConfigError(f"job.command={command}: no such program beside {sys.executable} or on PATH{here}")
    return Path(os.path.abspath(found))


def is_python_script(path: Path) -> bool:
    """Whether Python runs it: by its name, or by its first line, as of console scripts."""
    if path.suffix == ".py":
        return True
    try:
        with path.open("rb") as file:
            first, second = file.readline(_LINE_BYTES), file.readline(_LINE_BYTES)
    except OSError:
        return False
    # The second form is what pip writes where the interpreter's path is too long for a first line.
    long_path = first.rstrip() == b"#!/bin/sh" and second.startswith(b"'''exec'")
    return first.startswith(b"#!") and (b"python" in first or long_path)
