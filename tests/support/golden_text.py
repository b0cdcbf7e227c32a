"""Golden files: texts that leave the process, kept beside the tests that compare them."""

from __future__ import annotations

import os

from tests.support.folders import GOLDEN

FOLDER = GOLDEN


def assert_golden(name: str, text: str) -> None:
    """Compare with ``golden/<name>``; UPDATE_GOLDEN=1 writes it instead, for a person to read the diff."""
    path = FOLDER / name
    stripped = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(stripped)
    assert stripped == path.read_text(), (
        f"{path.name} differs; if it should, run make golden and read the diff"
    )
