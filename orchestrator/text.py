"""Numbers, faults and a job's own text as people read them. None and NaN are an en dash."""

from __future__ import annotations

import math
import re
import signal
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

from orchestrator.output import without_controls

UNKNOWN = "\u2013"
_DIVIDERS = ("/,;", "_.=:-")  # of a word that is too long: what it is broken after, the best first
_MOST_PLACES = 12
_LEAST = 10.0**-_MOST_PLACES


def known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def number(value: float | None, digits: int = 4) -> str:
    """``digits`` significant ones: 3.214, 2.300, 0.0001234, 1,500,000,000."""
    return UNKNOWN if value is None or math.isnan(value) else _plain(value, digits, keep_zeros=True)


def figure(value: float, digits: int = 3) -> str:
    """``digits`` significant ones, or all before the point: 1.5, 0.0123, 2,523."""
    return _plain(value, digits, keep_zeros=False)


def typed(value: float | None) -> str:
    """A number as one would type it, all of its digits and no exponent: 500000, 0.001."""
    if value is None or not math.isfinite(value):
        return "null" if value is None else str(value)
    return f"{Decimal(repr(float(value))).normalize():f}"


def _plain(value: float, digits: int, keep_zeros: bool) -> str:
    """Never with an exponent, which not everybody reads; what is next to nothing is said to be below the
    least that is written."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "-infinite" if value < 0 else UNKNOWN
    if value and abs(value) < _LEAST:
        return f"{'above -' if value < 0 else 'below '}{_LEAST:.{_MOST_PLACES}f}"
    power = math.floor(math.log10(abs(value))) if value else 0
    rounded = round(value, max(0, digits - 1 - power))
    if abs(rounded) / 10.0**power >= 10:
        power += 1
    places = max(0, min(_MOST_PLACES, digits - 1 - power))
    text = f"{rounded:,.{places}f}" if power >= digits else f"{rounded:.{places}f}"
    return text if keep_zeros or "." not in text else text.rstrip("0").rstrip(".")


def count(value: float | None) -> str:
    """With a magnitude: 950, 12.3k, 4.56M, 7.89B, 1.2T."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return _large(value, 1e3) or figure(value)


def _large(value: float, least: float) -> str | None:
    """Three digits and a magnitude; None below ``least``. What rounds up to the next magnitude has that
    one."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= least and abs(value) >= size * 0.9995:
            scaled = value / size
            return f"{figure(scaled)}{unit}"
    return None


def months_in_words(months: float) -> str:
    """9.4 months, and years where there are many: 3.2 years."""
    return f"{months:.1f} months" if months < 24 else f"{months / 12:,.1f} years"


def percent(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.1%}"


def usd(value: float | None) -> str:
    """$0.00184, $12.30, $9,300.12, $45,678, $16.9M, $1.2B: to the cent where cents matter, below a dollar to
    three digits, since small runs cost little."""
    if value is None or math.isnan(value):
        return UNKNOWN
    sign, amount = "-" if value < 0 else "", abs(value)
    if 0 < amount < 1:
        return f"{sign}${amount:.{min(12, 2 - math.floor(math.log10(amount)))}f}"
    if amount < 9_999.995:
        return f"{sign}${amount:,.2f}"
    return f"{sign}${_large(amount, 1e6) or f'{amount:,.0f}'}"


def hours(value: float | None) -> str:
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:,.1f}" if value >= 100 else figure(value)


def duration(seconds: float | None) -> str:
    """0:02:13, or with days: 3d 04:05:06."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    days, rest = divmod(int(seconds), 86400)
    hour, rest = divmod(rest, 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}d {hour:02d}:{clock}" if days else f"{hour}:{clock}"


def hours_name(unit: str) -> str:
    """``GPU`` → GPU-hours, ``CPU core`` → core-hours."""
    return f"{unit.split()[-1] if unit.strip() else 'GPU'}-hours"


def plural(amount: float, noun: str) -> str:
    """1 GPU, 4 GPUs, 2.5 days, 250,000 steps."""
    said = f"{amount:,}" if isinstance(amount, int) else figure(amount)
    return f"{said} {noun}" if said in ("1", "-1") else f"{said} {noun}s"


def ending(text: str, width: int) -> str:
    """As much of its end as fits: the end tells names of runs apart."""
    return text if len(text) <= width else "..." + text[len(text) - width + 3 :]


def bytes_in_words(amount: float) -> str:
    """950 B, 12 MB, 1.5 GB: decimal, as disks are sold."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(amount) >= size * 0.9995:
            return f"{_three(amount / size)} {unit}"
    return f"{amount:.0f} B"


def bits_in_words(rate: float) -> str:
    """100 Gb/s, 400 Gb/s, 2.5 Gb/s: of a network."""
    return f"{_three(rate / 1e9)} Gb/s"


def seconds_in_words(seconds: float | None) -> str:
    """42 µs, 412 ms, 1.25 s, 184 s: of a step."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    if 0 < seconds < 0.9995e-3:
        return f"{figure(1e6 * seconds)} µs"
    if 0 < seconds < 0.9995:
        return f"{figure(1000 * seconds)} ms"
    return f"{number(seconds, 3) if seconds < 999.5 else _three(seconds)} s"


def _three(value: float) -> str:
    """Three digits, or all before the point: 1.5, 12, 81.2, 12,345."""
    return figure(value)


def energy_in_words(kwh: float) -> str:
    """12.3 kWh, 4,560 kWh, 12 MWh, 1.2 GWh."""
    whole = f"{kwh:,.0f} kWh" if kwh < 1e4 else f"{kwh / 1e3:,.0f} MWh"
    return f"{figure(kwh)} kWh" if kwh < 100 else whole if kwh < 1e6 else f"{figure(kwh / 1e6)} GWh"


def power_in_words(watts: float) -> str:
    """11.2 kW, 1.3 MW."""
    return f"{figure(watts / 1e3)} kW" if watts < 1e6 else f"{figure(watts / 1e6)} MW"


def with_prefix(value: float) -> str:
    """A figure with its SI prefix and a space, for a unit to follow: ``11.2 M``."""
    for limit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{figure(value / limit)} {letter}"
    return f"{figure(value)} "


def hours_in_words(value: float) -> str:
    """1.50 hours, or days where there are many: 2.0 days."""
    return f"{value:.2f} hours" if value < 48 else f"{value / 24:,.1f} days"


def cells(text: str) -> int:
    """Columns of a terminal that a text takes: two for each wide character, as of Chinese, and none for an
    accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def wrapped(text: str, width: int) -> list[str]:
    """Its lines, none wider than ``width``: broken between words, and inside one only where it is wider."""
    lines: list[str] = []
    for paragraph in without_controls(text).expandtabs().split("\n"):
        line: str | None = None
        for word in paragraph.split(" "):
            if line is not None and cells(line) + 1 + cells(word) <= width:
                line = f"{line} {word}"
                continue
            if line is not None:
                lines.append(line)
            *full, line = _folded(word, width)
            lines += full
        lines.append(line or "")
    return lines


def longest_piece(text: str) -> int:
    """Columns below which a word of it would be broken where no list and no path is divided."""
    return max(map(cells, re.split(rf"(?<=[{_DIVIDERS[0]}])| ", text)), default=0)


def _folded(word: str, width: int) -> list[str]:
    """Pieces of a word that fit, a letter at least each: broken after what divides a path, a list or a key,
    and between letters only where there is none of that."""
    pieces, room = [""], width
    for letter in word:
        taken = cells(letter)
        if taken > room and pieces[-1]:
            whole = pieces[-1]
            place = next((p for signs in _DIVIDERS if (p := max(map(whole.rfind, signs)) + 1)), 0)
            rest = whole[place:] if place else ""
            pieces[-1] = whole[:place] if place else whole
            pieces.append(rest)
            room = width - cells(rest)
        pieces[-1] += letter
        room -= taken
    return [piece for piece in pieces if piece] or [""]


def clean(text: str) -> str:
    """Without escapes and control characters; of a line that overwrote itself, what was left standing."""
    lines = (part.rstrip("\r").rpartition("\r")[2] for part in text.rstrip("\n").split("\n"))
    return "\n".join(map(without_controls, lines))


def ranges(numbers: Iterable[int]) -> str:
    """3, 5\u20137: neighbours are said by their ends."""
    parts: list[list[int]] = []
    for value in sorted(set(numbers)):
        if parts and value == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ", ".join("\u2013".join(map(str, part)) for part in parts)


def exit_in_words(status: int) -> str:
    """``killed by SIGKILL`` or ``exited with status 1``, of a status as :mod:`subprocess` gives it."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exited with status {status}"
