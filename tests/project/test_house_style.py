"""What of the house style can be counted."""

from __future__ import annotations

import pytest

from tests.support.folders import PROJECT

MOST_LINES = 400
MOST_COLUMNS = 110  # of a document's lines, as of the code's
FOLDERS = ("orchestrator", "tests", "benchmarks", "infra", "jobs", ".ci")
DOCUMENTS = [
    str(path.relative_to(PROJECT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md")
    for path in sorted(PROJECT.glob(pattern))
]
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_of_a_document_are_no_longer_than_those_of_the_code(document: str) -> None:
    """All but tables, whose rows Markdown wants in one line each."""
    lines = (PROJECT / document).read_text(encoding="utf-8").splitlines()
    assert lines, "there are lines"
    long = {
        place: line
        for place, line in enumerate(lines, start=1)
        if len(line) > MOST_COLUMNS and not line.lstrip().startswith("|")
    }
    assert long == {}
