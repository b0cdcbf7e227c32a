"""Charges: what each stretch of a run's time was spent on, and the one place where hours become dollars.
Pure.

The meter makes them, a stretch each; the bill is their sum, and an incident the sum of those that it answers
for. Time is in whole microseconds, the journal's resolution, so that sums are exact and not up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.rates import US_PER_S

_S_PER_HOUR = 3600


class Charge(NamedTuple):
    """``us`` microseconds that went to a bucket while ``gpus`` were held at a price. A negative one takes
    back what an earlier one had counted: a checkpoint's stall was found in the time of steps. ``month`` is
    the one in which they were held, of UTC."""

    bucket: Bucket
    us: int
    gpus: int
    usd_per_gpu_hour: float
    month: str = ""

    @property
    def gpu_us(self) -> int:
        """GPU-microseconds."""
        return self.us * self.gpus


@dataclass(slots=True)
class Spent:
    """A sum of charges. They are kept apart by price, which may change while a run goes on."""

    gpu_us: int = 0
    _by_price: dict[float, int] = field(default_factory=dict)

    def add(self, charge: Charge) -> None:
        """One more of them."""
        gpu_us, price = charge.us * charge.gpus, charge.usd_per_gpu_hour
        self.gpu_us += gpu_us
        self._by_price[price] = self._by_price.get(price, 0) + gpu_us

    def plus(self, *charges: Charge) -> Spent:
        """A sum with more charges in it; this one stays as it is."""
        more = Spent(self.gpu_us, dict(self._by_price))
        for charge in charges:
            more.add(charge)
        return more

    @property
    def gpu_hours(self) -> float:
        """In the run's unit."""
        return self.gpu_us / US_PER_S / _S_PER_HOUR

    @property
    def cost_usd(self) -> float:
        """Each GPU-hour at the price that it was held for."""
        return sum(cost_usd(gpu_us / US_PER_S, price) for price, gpu_us in self._by_price.items())


def cost_usd(gpu_s: float, usd_per_gpu_hour: float) -> float:
    """Of so many GPU-seconds in dollars."""
    return gpu_s * usd_per_gpu_hour / _S_PER_HOUR
