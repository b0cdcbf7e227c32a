"""What of Debian's packages a test needs: it skips where that is missing, or fails where it must be there."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def program(name: str, package: str) -> str:
    """The path of a program of a package; ORCHESTRATOR_REQUIRE_SERVICES=1 fails instead of skipping."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )
    # Servers are not on every user's PATH.
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *map(str, versions)]
    found = shutil.which(name, path=os.pathsep.join(places))
    return found or _missing(f"needs Debian's {package}: apt-get install {package}")


def module(name: str) -> None:
    """Of the extra ``services``."""
    if importlib.util.find_spec(name) is None:
        _missing(f"needs the module {name}: make .venv/.installed-services")


def _missing(what: str) -> NoReturn:
    if os.environ.get("ORCHESTRATOR_REQUIRE_SERVICES") == "1":
        pytest.fail(what)
    pytest.skip(what)
