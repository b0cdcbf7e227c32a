"""The error of a rank's script, as its agent passes it on."""

from __future__ import annotations

from orchestrator.events import Fault
from orchestrator.rank.messages import ScriptFailed


def fault_of(error: ScriptFailed | None) -> Fault:
    """Which fault a rank's error is, as the rank knows it. Its script may have said any word there."""
    return Fault(error.fault) if error is not None and error.fault in set(Fault) else Fault.EXIT


def one_line(error: ScriptFailed) -> str:
    """The type of an error, and the first line of what it says."""
    return f"{error.type}: {first_line(error.message)}".strip(": ")


def first_line(text: str) -> str:
    """Without what follows, and the space around it."""
    return next(iter(text.strip().splitlines()), "")
