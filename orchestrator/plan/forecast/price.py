"""What one accelerator-hour costs: on demand, reserved, spot, or owned hardware written off with its
power."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date, datetime
from datetime import time as time_of_day

from orchestrator.config.schema import ClusterConfig, GpuConfig, PriceConfig, PriceKind, PriceQuality
from orchestrator.errors import ConfigError
from orchestrator.papers import short
from orchestrator.plan.forecast.owning import Ownership
from orchestrator.plan.forecast.price_schedule import Schedule, begins_unix_s, schedule_of

MOST_USD_PER_GPU_HOUR = 1000.0
# Of a price that `kind=list` names, and how it is paid.
_QUALITIES = {
    PriceQuality.list: ("list price", "on demand"),
    PriceQuality.quote: ("quote", "on demand"),
    PriceQuality.estimate: ("estimate", "estimated"),
    PriceQuality.assumption: ("assumption", "assumed"),
}
# What an hour of owned hardware leaves out, and every rent has in it.
WITHOUT = "interest on the capital, network, storage and the building itself"


@dataclass(frozen=True)
class Currency:
    """Another currency, by its stated rate."""

    code: str  # EUR, GBP, …
    usd_per_unit: float  # what one of it is in dollars
    as_of: str  # date of the rate
    source: str  # where the rate comes from


@dataclass(frozen=True)
class Price:
    """US dollars for one accelerator during one hour, and where the figure comes from."""

    usd_per_gpu_hour: float  # of one accelerator
    source: str  # where the figure comes from
    currency: Currency | None = None  # shown beside the dollars; null where none is stated


@dataclass(frozen=True, kw_only=True)
class Offer(Price):
    """A price by the way of paying it. The hours of one run differ by it too: spot nodes are reclaimed."""

    kind: PriceKind
    # in words: `on demand`, `reserved`, `spot` or `owned`; `assumed` or `estimated` where nobody rents at it
    paid: str
    schedule: Schedule | None = None  # where it changes while a run goes on; the price is that of its begin
    begins_unix_s: float = 0.0

    def mean_usd_per_gpu_hour(self, hours: float) -> float:
        """Of a run that takes so many hours from its begin on."""
        if self.schedule is None:
            return self.usd_per_gpu_hour
        return self.schedule.mean_usd(self.begins_unix_s, hours)


def price_usd_per_gpu_hour(price: PriceConfig, gpu: GpuConfig) -> Price:
    """The price of one hour of one `gpu` by the chosen kind.

    An hour in use of owned hardware carries capex and staff of the idle ones as well, but not their power,
    which is `gpu.tdp_w` where the price names none.

    Raises ConfigError naming key and remedy when a figure is missing, or what comes of it is absurd.
    """
    offer = offers(price, gpu)[0]
    return Price(offer.usd_per_gpu_hour, offer.source, offer.currency)


def no_price(cluster: ClusterConfig, gpu: GpuConfig) -> bool:
    """Whether this is a node that nobody sells, and nobody has said what it costs."""
    return cluster.hypothetical and bool(_missing(cluster.price.kind, cluster.price, gpu))


def offers(price: PriceConfig, gpu: GpuConfig) -> tuple[Offer, ...]:
    """Every kind whose figures are complete, the chosen one first, the others in the order of `PriceKind`.

    Raises ConfigError when the chosen kind lacks a figure, naming the key and the kinds that have theirs, and
    when what a kind comes to is absurd.
    """
    others = [kind for kind in PriceKind if kind is not price.kind]
    known = [kind for kind in others if not _missing(kind, price, gpu)]
    missing = _missing(price.kind, price, gpu)
    if missing:
        key = f"cluster.price.{missing[0]}"
        instead = ", ".join(kind.value for kind in known)
        known_here = f"those with their figures here: {instead}" if known else "none has its figures here yet"
        raise ConfigError(
            f"{key} is not set: set it, e.g. {key}=<number>, as cluster.price.kind={price.kind.value} needs"
            f" it, or choose another cluster.price.kind ({known_here})"
        )
    chosen = _chosen(price, gpu)
    schedule, begins_s = schedule_of(price, chosen.usd_per_gpu_hour), begins_unix_s(price)
    if schedule is not None:
        chosen = replace(
            chosen,
            usd_per_gpu_hour=schedule.usd_at(begins_s),
            source=f"{price.file or 'cluster.price.schedule'} over {chosen.source}",
            schedule=schedule,
            begins_unix_s=begins_s,
        )
    return (chosen, *(_offer(kind, price, gpu) for kind in known))


def price_schedule(price: PriceConfig, gpu: GpuConfig) -> Schedule | None:
    """How the price of the chosen kind changes, as it stands now in a file; None where it does not."""
    return schedule_of(price, _chosen(price, gpu).usd_per_gpu_hour)


def _chosen(price: PriceConfig, gpu: GpuConfig) -> Offer:
    """By the kind that a run is billed by; in another currency where it is stated in that."""
    offer, currency = _offer(price.kind, price, gpu), currency_of(price)
    if currency is None:
        return offer
    each = price.currency.price_per_gpu_hour
    if each is None:
        return replace(offer, currency=currency)
    source = f"{each:g} {currency.code} at {currency.usd_per_unit:g} USD each, {currency.source}"
    usd = each * currency.usd_per_unit
    return replace(offer, usd_per_gpu_hour=usd, source=f"{source}; date: {currency.as_of}", currency=currency)


def currency_of(price: PriceConfig) -> Currency | None:
    """The other currency in which totals are shown. Raises :class:`ConfigError` for one without its rate."""
    given, key = price.currency, "cluster.price.currency"
    named = {"usd_per_unit": given.usd_per_unit, "as_of": given.as_of, "source": given.source}
    if given.code is None:
        own = {**named, "price_per_gpu_hour": given.price_per_gpu_hour}
        stray = next((name for name, value in own.items() if value is not None), None)
        if stray is not None:
            raise ConfigError(
                f"{key}.{stray} is set, and no currency named; set {key}.code, e.g. {key}.code=EUR"
            )
        return None
    if not re.fullmatch("[A-Z]{3}", given.code) or given.code == "USD":
        raise ConfigError(
            f"{key}.code={short(given.code)}: is no other currency; write its three letters, e.g. EUR"
        )
    missing = next((name for name, value in named.items() if not value), None)
    if missing is not None or not (given.usd_per_unit and given.as_of and given.source):
        raise ConfigError(
            f"{key}.{missing} is not set: nothing is assumed of a rate; set {key}.usd_per_unit=…,"
            f" {key}.as_of=… and {key}.source=…"
        )
    return Currency(given.code, given.usd_per_unit, given.as_of, given.source)


def is_offered(price: PriceConfig) -> bool:
    """Whether somebody rents at this price: what is owned, estimated or assumed is no offer. A price reserved
    or on spot has a source of its own, and is one."""
    if price.kind is PriceKind.list:
        return price.quality in (PriceQuality.list, PriceQuality.quote)
    return price.kind is not PriceKind.owned


def remark_on(price: PriceConfig) -> str | None:
    """What is wrong with the price that a run is billed by: it has ended, or nobody knows of which day it is.

    Raises ConfigError for an end that is no date.
    """
    if price.kind is PriceKind.reserved and (ends := _ends(price)) is not None:
        if begins_unix_s(price) < datetime.combine(ends, time_of_day.max).timestamp():
            return None
        return (
            f"the reserved price held until {ends:%Y-%m-%d}, which is past: ask for today's, and give it with"
            " its end (cluster.price.reserved_usd_per_gpu_hour, cluster.price.reserved_until)"
        )
    if price.kind is PriceKind.list and not any(letter.isdigit() for letter in price.as_of):
        return (
            f"of which day the price is, nobody recorded ({price.as_of}): ask for today's, and give it with"
            " its day (cluster.price.usd_per_gpu_hour, cluster.price.as_of)"
        )
    return None


def _ends(price: PriceConfig) -> date | None:
    try:
        return None if price.reserved_until is None else date.fromisoformat(price.reserved_until)
    except ValueError:
        raise ConfigError(
            f"cluster.price.reserved_until={price.reserved_until}: is no date; write e.g."
            " cluster.price.reserved_until=2027-01-01, or null"
        ) from None


def _offer(kind: PriceKind, price: PriceConfig, gpu: GpuConfig) -> Offer:
    paid = kind.value
    match kind:
        case PriceKind.list:
            usd = _known("usd_per_gpu_hour", price.usd_per_gpu_hour)
            worth, paid = _QUALITIES[price.quality]
            source = f"{worth}: {price.source}; date: {price.as_of}"
        case PriceKind.reserved:
            usd = _known("reserved_usd_per_gpu_hour", price.reserved_usd_per_gpu_hour)
            source = f"reserved: {price.reserved_source or 'no source given'}"
            if (ends := _ends(price)) is not None:
                paid = f"reserved until {ends:%Y-%m-%d}"
        case PriceKind.spot:
            usd = _known("spot_usd_per_gpu_hour", price.spot_usd_per_gpu_hour)
            source = f"spot: {price.spot_source or 'no source given'}"
        case PriceKind.owned:
            usd = ownership(price, gpu).usd_per_gpu_hour
            source = f"owned, without {WITHOUT}: {price.source}; date: {price.as_of}"
    if usd > MOST_USD_PER_GPU_HOUR:
        raise ConfigError(
            f"cluster.price ({kind.value}) comes to {usd:g} USD per {gpu.unit}-hour, above "
            f"{MOST_USD_PER_GPU_HOUR:g}: give prices per accelerator in USD, not per node or in cents"
        )
    return Offer(usd_per_gpu_hour=usd, source=source, kind=kind, paid=paid)


def _missing(kind: PriceKind, price: PriceConfig, gpu: GpuConfig) -> list[str]:
    """Keys of `cluster.price` that a price of this kind needs and that are not set."""
    needed: dict[PriceKind, dict[str, float | None]] = {
        PriceKind.list: {"usd_per_gpu_hour": price.usd_per_gpu_hour},
        PriceKind.reserved: {"reserved_usd_per_gpu_hour": price.reserved_usd_per_gpu_hour},
        PriceKind.spot: {"spot_usd_per_gpu_hour": price.spot_usd_per_gpu_hour},
        PriceKind.owned: {
            "capex_usd_per_gpu": price.capex_usd_per_gpu,
            "lifetime_years": price.lifetime_years,
            "power_w_per_gpu": _power_w(price, gpu),
            "pue": price.pue,
            "electricity_usd_per_kwh": price.electricity_usd_per_kwh,
        },
    }
    return [name for name, value in needed[kind].items() if value is None]


def _power_w(price: PriceConfig, gpu: GpuConfig) -> float | None:
    return price.power_w_per_gpu if price.power_w_per_gpu is not None else gpu.tdp_w


def can_be_owned(price: PriceConfig, gpu: GpuConfig) -> bool:
    """Whether the figures of owning are all there."""
    return not _missing(PriceKind.owned, price, gpu)


def ownership(price: PriceConfig, gpu: GpuConfig) -> Ownership:
    """What one owned `gpu` costs to have and to run.

    Raises ConfigError naming key and remedy when a figure is missing.
    """
    power_kw = _known("power_w_per_gpu", _power_w(price, gpu)) / 1000.0
    pue = _known("pue", price.pue)
    usd_per_kwh = _known("electricity_usd_per_kwh", price.electricity_usd_per_kwh)
    return Ownership(
        capex_usd=_known("capex_usd_per_gpu", price.capex_usd_per_gpu),
        lifetime_years=_known("lifetime_years", price.lifetime_years),
        occupancy=price.occupancy,
        staff_usd_per_year=price.staff_usd_per_gpu_year,
        power_usd_per_hour=power_kw * pue * usd_per_kwh,
        pue=pue,
    )


def _known(name: str, value: float | None) -> float:
    if value is None:
        key = f"cluster.price.{name}"
        raise ConfigError(f"{key} is not set: set it, e.g. {key}=<number>")
    return float(value)
