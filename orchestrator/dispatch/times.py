"""Times as people type them: ``18:00``, ``fri 18:00``, ``2026-12-01 18:00``, ``3h``; of this machine's time
zone."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, timedelta

from orchestrator.errors import ConfigError
from orchestrator.papers import short

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"(?:in )?(\d+(?:\.\d+)?) ?(min|m|h|d|w)")
_UNIT_S = {"min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_FORMATS = ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")


def time_of(key: str, text: str, now: float) -> float:
    """Seconds since the epoch. Raises :class:`ConfigError`, which names the key."""
    words = text.strip().lower()
    if (span := _SPAN.fullmatch(words)) is not None:
        return now + float(span[1]) * _UNIT_S[span[2]]
    here = datetime.fromtimestamp(now).replace(second=0, microsecond=0)
    try:
        found = _on_a_day(words, here) or _in_full(text.strip())
    except ValueError:
        found = None
    if found is None:
        raise ConfigError(
            f"{key}={short(text)}: is no time; write 3h, 18:00, 'fri 18:00' or '2026-12-01 18:00'"
        )
    return found.timestamp()


def date_of(key: str, text: str) -> float:
    """The same of a time with its date, which means one time whoever reads it, and when."""
    with contextlib.suppress(ValueError):
        if (found := _in_full(text.strip())) is not None:
            return found.timestamp()
    raise ConfigError(f"{key}={short(text)}: is no time with its date; write e.g. '2026-12-01 18:00'")


def _on_a_day(words: str, here: datetime) -> datetime | None:
    """A time of the day, of today or the next day that has it; the next such weekday, today included while it
    is not past."""
    day, _, clock = words.rpartition(" ")
    if (typed := _CLOCK.fullmatch(clock)) is None:
        day, typed = words, _CLOCK.fullmatch("23:59")
        assert typed is not None
    at = here.replace(hour=int(typed[1]), minute=int(typed[2]))
    if (words and day == "") or (day == "today" and at > here):
        return at if at > here else at + timedelta(days=1)
    if day == "tomorrow":
        return at + timedelta(days=1)
    if day[:3] in _DAYS and day in (day[:3], *_FULL):
        at += timedelta(days=(_DAYS.index(day[:3]) - at.weekday()) % 7)
        return at if at > here else at + timedelta(days=7)
    return None


_FULL = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _in_full(text: str) -> datetime | None:
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return datetime.fromisoformat(text) if "T" in text or "+" in text else None


def told(at: float, now: float) -> str:
    """A time as it is shown: ``18:00`` of today, ``fri 18:00`` within a week, else with its date."""
    when, here = datetime.fromtimestamp(at), datetime.fromtimestamp(now)
    if when.date() == here.date():
        return when.strftime("%H:%M")
    if abs(at - now) < 6 * 86400.0:
        return f"{_DAYS[when.weekday()]} {when:%H:%M}"
    return when.strftime("%Y-%m-%d %H:%M")


def told_range(low_at: float, high_at: float, now: float) -> str:
    """`17:50–18:20`, `fri 9:00–sat 12:30`; one time where both are told alike."""
    low, high = told(low_at, now), told(high_at, now)
    if low == high:
        return low
    day, _, clock = high.rpartition(" ")
    return f"{low}\u2013{clock if day and low.startswith(f'{day} ') else high}"
