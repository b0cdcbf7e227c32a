"""Prices that change by the clock or by the date: which holds when, and what a stretch of time costs at them.

A run's bill, its caps and its plan ask the same one, so a run that goes as planned costs as planned.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day

from orchestrator.config.price_file import prices_in
from orchestrator.config.schema import PriceConfig
from orchestrator.errors import ConfigError
from orchestrator.papers import short

_S_PER_HOUR = 3600.0
_CLOCK = re.compile(r"(\d{1,2})h(\d{2})?(Z|[+-]\d{2}:\d{2})?")
# What is looked ahead of a longer run: after so many changes its price is the mean until then.
_MOST_CHANGES = 50_000
_EXAMPLE = "+cluster.price.schedule={8h: 2.40, 18h: 1.20}, or {2026-12-01: 2.10}"


@dataclass(frozen=True)
class Schedule:
    """Dollars for one accelerator-hour over time: ``base_usd`` until the first of ``dated`` (Unix seconds and
    price), or all day long what ``daily`` says."""

    base_usd: float
    dated: tuple[tuple[float, float], ...] = ()
    daily: tuple[tuple[time_of_day, float], ...] = ()

    def usd_at(self, unix_s: float) -> float:
        """The price that holds then."""
        if self.daily:
            day = datetime.fromtimestamp(unix_s).date()
            days = (day + timedelta(days=back) for back in range(-2, 2))
            return max(each for one in days for each in self._of_day(one) if each[0] <= unix_s)[1]
        return next((usd for begins_s, usd in reversed(self.dated) if begins_s <= unix_s), self.base_usd)

    def changes(self, after_unix_s: float) -> Iterator[tuple[float, float]]:
        """When it changes after that, and to what; without an end where it does each day."""
        usd = self.usd_at(after_unix_s)
        for begins_s, becomes_usd in self._begins(after_unix_s):
            if begins_s > after_unix_s and becomes_usd != usd:
                usd = becomes_usd
                yield begins_s, usd

    def _begins(self, after_unix_s: float) -> Iterator[tuple[float, float]]:
        if not self.daily:
            yield from self.dated
            return
        if len({usd for _, usd in self.daily}) == 1:
            return  # a day is like the next one
        day = datetime.fromtimestamp(after_unix_s).date() - timedelta(days=1)
        while day < date.max - timedelta(days=3):
            day += timedelta(days=1)
            yield from sorted(self._of_day(day))

    def mean_usd(self, begin_unix_s: float, hours: float) -> float:
        """Of so many hours from then on, each second at its own price."""
        end_s = begin_unix_s + hours * _S_PER_HOUR
        if not end_s > begin_unix_s:
            return self.usd_at(begin_unix_s)
        at_s, usd, total = begin_unix_s, self.usd_at(begin_unix_s), 0.0
        last = not self.daily
        for when_s, becomes_usd in itertools.islice(self.changes(begin_unix_s), _MOST_CHANGES):
            if when_s >= end_s:
                last = True
                break
            total, at_s, usd = total + (when_s - at_s) * usd, when_s, becomes_usd
        if not last and at_s > begin_unix_s:
            return total / (at_s - begin_unix_s)
        return (total + (end_s - at_s) * usd) / (end_s - begin_unix_s) if math.isfinite(end_s) else usd

    def most_usd(self, begin_unix_s: float, hours: float) -> float:
        """The highest price in so many hours from then on."""
        end_s = begin_unix_s + hours * _S_PER_HOUR
        soon = itertools.takewhile(lambda change: change[0] < end_s, self.changes(begin_unix_s))
        return max(itertools.chain([self.usd_at(begin_unix_s)], (usd for _, usd in soon)))

    def _of_day(self, day: date) -> list[tuple[float, float]]:
        return [(datetime.combine(day, clock).timestamp(), usd) for clock, usd in self.daily]


def schedule_of(price: PriceConfig, base_usd: float) -> Schedule | None:
    """The schedule of a price that is ``base_usd`` where it says nothing; None where there is none.

    Raises :class:`ConfigError` for what is no schedule, and for a file that cannot be read.
    """
    if price.file is None:
        return _schedule("cluster.price.schedule", price.schedule, base_usd) if price.schedule else None
    if price.schedule:
        raise ConfigError(
            f"cluster.price.file={price.file} and cluster.price.schedule both say when the price changes; set"
            " cluster.price.file=null, or take out the schedule"
        )
    return _schedule(f"cluster.price.file={price.file}", prices_in(price.file), base_usd)


def begins_unix_s(price: PriceConfig) -> float:
    """When a plan takes its run to begin: what ``cluster.price.begins`` says, else now. Raises
    :class:`ConfigError`."""
    if price.begins is None:
        return time.time()
    try:
        return datetime.fromisoformat(price.begins).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"cluster.price.begins={price.begins}: is no date; write e.g."
            " cluster.price.begins=2026-12-01T18:00, or null for now"
        ) from None


def _schedule(where: str, prices: Mapping[str, float], base_usd: float) -> Schedule:
    daily, dated = [], []
    for key, usd in prices.items():
        if (clock := _clock(key)) is not None:
            daily.append((clock, float(usd)))
        else:
            dated.append((_date_unix_s(where, key), float(usd)))
    twice = [clock for clock, _ in daily if [each for each, _ in daily].count(clock) > 1]
    if twice:
        raise ConfigError(f"{where}: {twice[0]:%H:%M} has two prices; leave one of them out")
    if daily and dated:
        raise ConfigError(
            f"{where}: {daily[0][0]:%H:%M} is a time of each day, and there are dates beside it; write either"
            f" times or dates, e.g. {_EXAMPLE}"
        )
    return Schedule(base_usd, tuple(sorted(dated)), tuple(daily))


def _clock(key: str) -> time_of_day | None:
    found = _CLOCK.fullmatch(key)
    text = f"{found[1]:0>2}:{found[2] or '00'}{found[3] or ''}" if found else key
    try:
        return time_of_day.fromisoformat(text) if ":" in text[:3] else None
    except ValueError:
        return None


def _date_unix_s(where: str, key: str) -> float:
    try:
        return datetime.fromisoformat(key).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{where}: {short(key)} is neither a time of the day nor a date; write e.g. {_EXAMPLE}"
        ) from None
