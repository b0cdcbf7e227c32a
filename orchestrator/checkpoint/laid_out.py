"""What a rank is led to when it loads: a folder with a name for every file, and where the files lie.

A node's agent lays it out and the rank reads it from its specification, a line of JSON, so this is imported
into the user's process and needs nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.checkpoint.entries import Entry


@dataclass(frozen=True, slots=True)
class InMemory:
    """One file of a checkpoint as it lies in a slot: so many bytes from ``offset`` of what ``path`` opens."""

    path: str
    offset: int
    bytes: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class LaidOut:
    """``view`` is the folder that has a name for every file; ``files`` says by name where one lies in memory,
    None where it lies in the view. ``unvouched``: why what lies there may be somebody else's, None where it
    is ours."""

    save_dir: str
    tag: str
    step: int
    view: str
    unvouched: str | None
    files: dict[str, InMemory | None]

    def to_payload(self) -> dict[str, Any]:
        """Plain values, for a rank's specification."""
        return dataclasses.asdict(self)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> LaidOut:
        """Inverse of :meth:`to_payload`."""
        files = {name: place and InMemory(**place) for name, place in payload["files"].items()}
        return cls(**{**payload, "files": files})
