"""At which rate each moment of a run counts: its price, and the month whose money it is. Pure.

A price may change while a run goes on. What it will be is told before it comes (`PricesAnnounced`), so a
stretch of time is parted where the price changes and not where somebody noticed, and what a run has cost so
far is never taken back. Months are those of UTC, as budgets have them.

The run's own clock counts the time; the wall clock says which month and which price that is. It is looked at
with each record, and runs on evenly between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from orchestrator.papers import LATEST_UNIX_S

US_PER_S = 1_000_000
# A journal is other people's paper: what lies beyond the last year that a date can have is that year's.
_LATEST_US = LATEST_UNIX_S * US_PER_S


class Rate(NamedTuple):
    """What an accelerator-hour costs, and in which month it is held."""

    usd_per_gpu_hour: float = 0.0
    month: str = ""  # 2026-11, of UTC; "" before the first record


_NONE = Rate()
Part = tuple[int, Rate]


@dataclass(slots=True)
class Stretch:
    """Time in its order, in microseconds, parted by its rate."""

    us: int = 0
    _parts: list[Part] = field(default_factory=list)

    def add(self, parts: Iterable[Part]) -> None:
        """More of it, behind what is there."""
        for us, rate in parts:
            self.us += us
            if self._parts and self._parts[-1][1] == rate:
                us += self._parts.pop()[0]
            self._parts.append((us, rate))

    def first(self, us: int) -> list[Part]:
        """Take so much from its beginning."""
        if us >= self.us:
            return self._all()
        parts, left = self.take_last(self.us - us), self._all()
        self.add(reversed(parts))
        return left

    def take_last(self, us: int) -> list[Part]:
        """Take so much from its end, the last part first."""
        taken: list[Part] = []
        left_us = min(us, self.us)
        self.us -= left_us
        while left_us > 0:
            had_us, rate = self._parts.pop()
            taken_us = min(left_us, had_us)
            taken.append((taken_us, rate))
            left_us -= taken_us
            if taken_us < had_us:
                self._parts.append((had_us - taken_us, rate))
        return taken

    def keep_last(self, us: int) -> None:
        """Forget all but so much at its end."""
        if us < self.us:
            self.first(self.us - us)

    def with_more(self, parts: Sequence[Part]) -> Stretch:
        """The same with more behind it; this one stays as it is."""
        longer = Stretch(self.us, list(self._parts))
        longer.add(parts)
        return longer

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def _all(self) -> list[Part]:
        parts, self._parts, self.us = self._parts, [], 0
        return parts


@dataclass(slots=True)
class Rates:
    """The rate that holds, and those that are known to come."""

    now: Rate = _NONE
    _wall_us: int = 0  # of the newest record
    _changes: list[tuple[int, float]] = field(default_factory=list)  # to come: when, and to which price
    _month_us: tuple[int, int] = (0, 0)  # in which the newest record lies

    def passing(self, us: int) -> list[Part]:
        """The time from the newest record on, parted."""
        if us <= 0:
            return []
        end_us = self._wall_us + us
        if not self._changes and end_us <= self._month_us[1]:
            return [(us, self.now)]
        parts: list[Part] = []
        at_us, rate, month_us, changes = self._wall_us, self.now, self._month_us, list(self._changes)
        while at_us < end_us:
            if at_us >= month_us[1]:
                month, month_us = _month_of(at_us)
                rate = rate._replace(month=month)
            while changes and changes[0][0] <= at_us:
                rate = rate._replace(usd_per_gpu_hour=changes.pop(0)[1])
            until_us = min(end_us, month_us[1], changes[0][0] if changes else end_us)
            parts.append((until_us - at_us, rate))
            at_us = until_us
        return parts

    def look(self, passed_us: int, time_unix_s: float) -> None:
        """A record came so much later, at this time on the wall."""
        wall_us = min(round(time_unix_s * US_PER_S), _LATEST_US)
        # A clock that somebody has set back brings back no price.
        reached_us = max(self._wall_us + passed_us, wall_us)
        while self._changes and self._changes[0][0] <= reached_us:
            self.now = self.now._replace(usd_per_gpu_hour=self._changes.pop(0)[1])
        self._wall_us = wall_us
        if not self._month_us[0] <= wall_us < self._month_us[1]:
            month, self._month_us = _month_of(wall_us)
            self.now = self.now._replace(month=month)

    def begin(self, usd_per_gpu_hour: float) -> None:
        """A run began, at this price."""
        self.now, self._changes = self.now._replace(usd_per_gpu_hour=usd_per_gpu_hour), []

    def announced(self, prices: Sequence[Sequence[float]]) -> None:
        """From when on which price holds, in their order, in place of what was announced before. What is over
        holds from now on."""
        self._changes = sorted(
            (min(round(each[0] * US_PER_S), _LATEST_US), each[1]) for each in prices if _is_price(each)
        )
        self.look(0, self._wall_us / US_PER_S)


def _is_price(each: Sequence[float]) -> bool:
    """Whether a moment and its price can be counted with, whoever wrote them."""
    return len(each) == 2 and 0 <= each[0] <= LATEST_UNIX_S and 0 <= each[1] <= 1e15


def _month_of(wall_us: int) -> tuple[str, tuple[int, int]]:
    """Its name, and from when to when it is."""
    when = datetime.fromtimestamp(min(wall_us, _LATEST_US) // US_PER_S, UTC)
    begin = datetime(when.year, when.month, 1, tzinfo=UTC)
    month = f"{when.year:04}-{when.month:02}"
    if (when.year, when.month) == (9999, 12):
        return month, (round(begin.timestamp()) * US_PER_S, 1 << 63)
    end = datetime(when.year + when.month // 12, when.month % 12 + 1, 1, tzinfo=UTC)
    return month, (round(begin.timestamp()) * US_PER_S, round(end.timestamp()) * US_PER_S)
