"""What is said of a price that changes while a run goes on."""

from __future__ import annotations

from datetime import datetime

from orchestrator.events import PricesAnnounced, RunStarted
from orchestrator.text import clean, hours_name, number, usd

_SHOWN = 2  # of the changes that are to come


def beside_dollars(facts: RunStarted | None, cost_usd: float) -> dict[str, str]:
    """The same in the run's other currency, where it has one."""
    if facts is None or not facts.currency or not facts.usd_per_currency_unit:
        return {}
    rate = facts.usd_per_currency_unit
    code = clean(facts.currency)
    return {f"in {code}": f"{number(cost_usd / rate, 6)} {code} at {rate:g} USD each"}


def announced(event: PricesAnnounced, unit: str) -> str:
    """What holds from now on, and what follows: the clock is that of who reads it."""
    prices = [each for each in event.prices if len(each) == 2]  # a journal is other people's paper
    if not prices:
        return "the price does not change any more"
    now, *ahead = prices
    said = f"from now on {usd(now[1])} per {hours_name(unit)[:-1]}"
    said += "".join(f", {usd(each[1])} from {_when(each[0])} on" for each in ahead[:_SHOWN])
    return said + (", and so on" if len(ahead) > _SHOWN else "")


def _when(unix_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_s):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a journal is other people's paper
        return "some day"
