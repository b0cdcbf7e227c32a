"""What a rank says, as its agent hears it. A script has the descriptor that messages come by, and may write
to it itself: a line that is no message of ours is left out, whatever is in it, and is never the end of the
agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator import papers

# The longest is an error's, of which a script may make the text.
MOST_LINE_BYTES = 4 << 20
_MOST_VALUES = 100_000

_Check = Callable[[Any], bool]


def message_of(line: bytes) -> dict[str, Any] | None:
    """The message in a line, with None for what it does not say; None where it is none, or has a field that
    is not what it has to be."""
    if len(line) > MOST_LINE_BYTES:
        return None
    try:
        message = papers.json_of(line, _MOST_VALUES)
    except papers.PaperError:
        return None
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        return None
    checks = _checks_of(message)
    return {**dict.fromkeys(checks), **message} if _fits(message, checks) else None


def _checks_of(message: Mapping[str, Any]) -> Mapping[str, _Check]:
    kind = message["kind"]
    if kind in ("save", "load") and message.get("edge") == "end" and message.get("ok") is True:
        return {**_DONE, **(_STAGED if "snapshot" in message else {})}
    if kind in ("save", "load"):
        return _UNDER_WAY
    return _CHECKS.get(kind, {})


def _fits(message: Mapping[str, Any], checks: Mapping[str, _Check]) -> bool:
    return all(check(message.get(name)) for name, check in checks.items())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= papers.LARGEST


def _is_number(value: Any) -> bool:
    """A loss may be no number, and a gradient's norm infinite; neither has more than 64 bits."""
    return type(value) is float or (type(value) is int and abs(value) <= papers.LARGEST)


def _is_time(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and abs(value) < papers.LATEST_UNIX_S


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


_CHECKS: dict[str, Mapping[str, _Check]] = {
    "heartbeat": {"phase": _is_text, "step": _or_none(_is_count), "progress": _is_count},
    "phase": {"phase": _is_text, "edge": _is_text},
    "step": {
        "step": _is_count,
        "step_time_s": _is_time,
        "own_s": _or_none(_is_time),
        "loss": _or_none(_is_number),
        "lr": _or_none(_is_number),
        "grad_norm": _or_none(_is_number),
        "skipped": lambda value: value is None or isinstance(value, bool),
    },
    "memory": {"step": _is_count, "peak_bytes": _or_none(_is_count)},
    "error": {"fault": _or_none(_is_text)},
    "probe_failed": {"where": _is_text, "message": _is_text},
}
# What a rank of this version may say.
KINDS = frozenset({*_CHECKS, "save", "load"})
_UNDER_WAY: Mapping[str, _Check] = {"edge": _is_text, "step": _or_none(_is_count)}
_DONE: Mapping[str, _Check] = {
    "step": _is_count,
    "dir": _is_text,
    "tag": lambda value: isinstance(value, str | int),
    "seconds": _is_time,
}
_STAGED: Mapping[str, _Check] = {
    "snapshot": lambda value: (
        isinstance(value, dict) and _SNAPSHOT.keys() <= value.keys() and _fits(value, _SNAPSHOT)
    ),
}
_SNAPSHOT: Mapping[str, _Check] = {
    "given_up": _or_none(_is_text),
    "attempt": _is_count,
    "save_latest": lambda value: True,  # whatever the script gave
    "to": _is_text,
    "slot": lambda value: value is None or value in (0, 1),
    "files": lambda value: isinstance(value, list),
}
