"""What of the house style can be counted."""

from __future__ import annotations

import pytest

from tests.support.folders import PROJECT

MOST_LINES = 400
FOLDERS = ("orchestrator", "tests", "benchmarks", "infra", "jobs", ".ci")
SOURCES = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_has_one_subject_and_up_to_400_lines(folder: str) -> None:
    counted = {
        str(path.relative_to(PROJECT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCES
        if path.is_relative_to(PROJECT / folder)
    }
    assert counted, "there are files"
    assert {path: lines for path, lines in counted.items() if lines > MOST_LINES} == {}
