"""Refuses at once what would fail after a quarter of an hour: a machine that lacks a program or makes no
namespaces.

Runs with the system's Python, before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.hosts.namespaces import NEEDED, PATH

PYTHONS = ((3, 11), (3, 13))
PROGRAMS = {"git": "git", "make": "make", **NEEDED}


def lacking() -> Iterator[str]:
    """One line for each thing that is missing, with what brings it."""
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        first, last = (".".join(map(str, version)) for version in PYTHONS)
        yield (
            f"Python {first} to {last} is needed and python3 is {sys.version.split()[0]}: set"
            f" PYTHON=python{first}"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            yield f"python3 has no module {module}: apt-get install python3-venv"
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=PATH) is None:
            yield f"the program {program} is missing: apt-get install {package}"
    if shutil.which("unshare", path=PATH) and (reason := why_no_namespaces()):
        yield f"this machine makes no namespaces, which the tests of several hosts need: {reason}"


def why_no_namespaces() -> str:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    kinds = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--mount-proc"]
    done = subprocess.run(["unshare", *user, *kinds, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


if __name__ == "__main__":
    said = list(lacking())
    print("\n".join(f"error: {line}" for line in said), file=sys.stderr, end="\n" if said else "")
    sys.exit(1 if said else 0)
