"""What the page of one verb says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerbHelp:
    """``takes`` follows the verb, ``does`` says what it does, ``flags`` are its own, ``examples`` what to
    type."""

    takes: str
    does: str
    flags: tuple[tuple[str, str], ...] = ()
    examples: tuple[str, ...] = ()
