"""Numbers and exit statuses as people read them. None and NaN are an en dash."""

from __future__ import annotations

import math

UNKNOWN = "\u2013"


def known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def number(value: float | None, digits: int = 4) -> str:
    """``digits`` significant ones: 3.214, 2.300, 0.0001234, 1.500e+09."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:#.{digits}g}".rstrip(".")


def count(value: float | None) -> str:
    """With a magnitude: 950, 12.3k, 4.56M, 7.89B, 1.2T."""
    if value is None or math.isnan(value):
        return UNKNOWN
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def percent(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.1%}"


def usd(value: float | None) -> str:
    """Cents; below a dollar two significant digits more, since small runs cost little."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if 0 < abs(value) < 1:
        return f"${value:.{min(8, 2 - math.floor(math.log10(abs(value))))}f}"
    return f"${value:,.2f}"


def hours(value: float | None) -> str:
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


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


def plural(amount: int, noun: str) -> str:
    """1 GPU, 4 GPUs."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
