"""What an export is: files by name, what is typed next, and what has to be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rendered:
    """``whole`` names the files that make one text, for a pipe, in their order.
    ``next_steps`` are commands, for the folder that the files are in."""

    files: Mapping[str, str]
    whole: Sequence[str]
    next_steps: Sequence[str]
    remarks: Sequence[str] = ()

    def text(self) -> str:
        """All of ``whole``, one after the other."""
        return "---\n".join(self.files[name] for name in self.whole)
