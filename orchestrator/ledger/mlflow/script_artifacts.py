"""The files that the script gave MLflow: they lie in the run's directory, and MLflow gets them at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.ledger.mlflow.names import END_ARTIFACTS, START_ARTIFACTS

MOST_FILES = 10_000
_OURS = frozenset([*START_ARTIFACTS, *END_ARTIFACTS])


def files_to_upload(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Each plain file and the folder that it has in the run, None for the uppermost. One that is called as
    one of ours goes below ``job``. Nothing is behind a link, which may lead to somebody's keys."""
    if folder.is_symlink():
        return
    count = 0
    for where, folders, names in os.walk(folder):
        folders.sort()
        inner = Path(where).relative_to(folder)
        for name in sorted(names):
            path = Path(where, name)
            if path.is_symlink() or not path.is_file():
                continue
            count += 1
            if count > MOST_FILES:
                return
            first = (inner / name).parts[0]
            parent = Path("job", inner) if first in _OURS else inner
            yield path, None if parent == Path() else str(parent)
