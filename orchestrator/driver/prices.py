"""What a run's accelerators cost while it goes on: told in its journal before it holds, read again where it
stands in a file."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.events import Event, PricesAnnounced, RunEnded
from orchestrator.plan.forecast.price import price_schedule, price_usd_per_gpu_hour
from orchestrator.plan.forecast.price_schedule import Schedule

# So many changes are told ahead, and again when half of them have come: a driver that was frozen over some of
# them has them in its journal all the same.
_AHEAD = 64
_READ_EVERY_S = 10.0
# What is kept free to save and to stop is paid at the highest price of so long.
_RESERVE_HOURS = 1.0


class Prices:
    """One run's. ``charged`` is the price that its ledger counts with; ``notice`` is told of a file that
    cannot be read, whose last prices hold on."""

    def __init__(
        self,
        config: Config,
        charged: Callable[[], float],
        notice: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._charged, self._notice, self._wall = config, charged, notice, wall
        price = config.cluster.price
        self._schedule = price_schedule(price, config.gpu)
        # where no schedule says it, which a plan knows too
        self._usd = price_usd_per_gpu_hour(price, config.gpu).usd_per_gpu_hour
        self._told: Schedule | None = None
        self._tell_again_unix_s: float | None = None
        self._begun = False
        self._read = self._stamp()

    @property
    def change(self) -> bool:
        """Whether they may."""
        return self._schedule is not None

    def mean_usd(self, hours: float) -> float:
        """Of so many hours from now on."""
        return self._schedule.mean_usd(self._wall(), hours) if self._schedule else self._charged()

    def most_usd(self) -> float:
        """The highest until what is kept free to save and to stop would be spent."""
        return self._schedule.most_usd(self._wall(), _RESERVE_HOURS) if self._schedule else self._charged()

    def due(self) -> PricesAnnounced | None:
        """What is to be told now; None where all is."""
        now_s, schedule = self._wall(), self._schedule
        first, self._begun = not self._begun, True
        if schedule is None:
            # a run that is taken up may go on at another price
            other = first and self._charged() != self._usd
            return PricesAnnounced([[now_s, self._usd]], self._config.cluster.price.source) if other else None
        again = self._tell_again_unix_s is not None and now_s >= self._tell_again_unix_s
        if schedule is self._told and not again:
            return None
        self._told = schedule
        ahead = list(itertools.islice(schedule.changes(now_s), _AHEAD))
        self._tell_again_unix_s = ahead[_AHEAD // 2][0] if len(ahead) == _AHEAD else None
        prices = [(now_s, schedule.usd_at(now_s)), *ahead]
        return PricesAnnounced([list(each) for each in prices], self._config.cluster.price.file or "")

    def look(self) -> None:
        """Read the file again where it was written since."""
        stamp = self._stamp()
        if stamp is None or stamp == self._read:
            return
        self._read = stamp
        try:
            found = price_schedule(self._config.cluster.price, self._config.gpu)
        except ConfigError as error:
            self._notice(f"{error}; the run goes on at the prices that stood there before")
            return
        if found != self._schedule:
            self._schedule = found

    @contextlib.contextmanager
    def read_again(self, every_s: float = _READ_EVERY_S) -> Iterator[None]:
        """Meanwhile, by a thread: a file system that does not answer holds up nobody."""
        if self._config.cluster.price.file is None:
            yield
            return
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(every_s):
                self.look()

        threading.Thread(target=go_on, name="prices", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _stamp(self) -> tuple[int, int, int] | None:
        path = self._config.cluster.price.file
        with contextlib.suppress(OSError):
            if path is not None:
                seen = Path(path).stat()
                return seen.st_ino, seen.st_size, seen.st_mtime_ns
        return None


def with_prices(events: Iterator[Event], prices: Prices) -> Iterator[Event]:
    """The events of a run, and what is to be told of its prices behind them; the last word stays the last."""
    for event in events:
        yield event
        if not isinstance(event, RunEnded) and (told := prices.due()) is not None:
            yield told
