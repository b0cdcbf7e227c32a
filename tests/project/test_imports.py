"""The package's modules imported one after the other, in orders that nobody thought of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import orchestrator as orc

CODE = """
import importlib, json, pkgutil, random, sys, types
import orchestrator

names = [found.name for found in pkgutil.walk_packages(orchestrator.__path__, "orchestrator.")]
random.Random(int(sys.argv[1])).shuffle(names)
for name in names:
    importlib.import_module(name)
hidden = []
for name in names:
    room, _, own = name.rpartition(".")
    if getattr(sys.modules[room], own) is not sys.modules[name]:
        hidden.append(name)  # behind a name that its room re-exports
kinds = {name: type(getattr(orchestrator, name)).__name__ for name in orchestrator.__all__}
print(json.dumps({"count": len(names), "hidden": hidden, "kinds": kinds}))
"""


def imported(seed: int, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(Path(orc.__file__).parents[1]), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(seed)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.real
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_any_order_every_module_can_be_imported_and_hides_no_public_name(
    seed: int, tmp_path: Path
) -> None:
    found = imported(seed, tmp_path)
    files = [
        path for path in Path(orc.__file__).parent.rglob("*.py") if path.parent != Path(orc.__file__).parent
    ]
    assert found["count"] >= len(files)
    assert found["hidden"] == []
    assert found["kinds"] == {name: type(getattr(orc, name)).__name__ for name in orc.__all__}
