"""What one accelerator-hour costs: a list price, or owned hardware written off with its power."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.config import GpuConfig, PriceConfig, PriceKind
from orchestrator.errors import ConfigError

HOURS_PER_YEAR = 365.25 * 24
MOST_USD_PER_GPU_HOUR = 1000.0


@dataclass(frozen=True)
class Price:
    """US dollars for one accelerator during one hour, and where the figure comes from."""

    usd_per_gpu_hour: float
    source: str


def price_usd_per_gpu_hour(price: PriceConfig, gpu: GpuConfig) -> Price:
    """The price of one hour of one `gpu`.

    Owned hardware costs capex / (lifetime x occupancy) plus power x PUE x electricity price; power is
    `gpu.tdp_w` where the price names none. Idle hours carry their capex and no power.

    Raises ConfigError naming key, value and remedy when a figure is missing, negative or absurd.
    """
    if price.kind is PriceKind.list:
        usd = _number("usd_per_gpu_hour", price.usd_per_gpu_hour, least=0.0)
        how = "list price"
    else:
        usd = _owned_usd_per_gpu_hour(price, gpu)
        how = "owned"
    if usd > MOST_USD_PER_GPU_HOUR:
        raise ConfigError(
            f"cluster.price comes to {usd:g} USD per {gpu.unit}-hour, above {MOST_USD_PER_GPU_HOUR:g}: "
            "give prices per accelerator in USD, not per node or in cents"
        )
    return Price(usd, f"{how}: {price.source}; date: {price.as_of}")


def _owned_usd_per_gpu_hour(price: PriceConfig, gpu: GpuConfig) -> float:
    capex_usd = _number("capex_usd_per_gpu", price.capex_usd_per_gpu, least=0.0)
    lifetime_years = _number("lifetime_years", price.lifetime_years, above=0.0)
    occupancy = _number("occupancy", price.occupancy, above=0.0, most=1.0)
    power_w = price.power_w_per_gpu if price.power_w_per_gpu is not None else gpu.tdp_w
    power_kw = _number("power_w_per_gpu", power_w, least=0.0) / 1000.0
    pue = _number("pue", price.pue, least=1.0)
    usd_per_kwh = _number("electricity_usd_per_kwh", price.electricity_usd_per_kwh, least=0.0)
    capital = capex_usd / (lifetime_years * HOURS_PER_YEAR * occupancy)
    return capital + power_kw * pue * usd_per_kwh


def _number(
    name: str,
    value: float | None,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    key = f"cluster.price.{name}"
    if value is None:
        raise ConfigError(f"{key} is not set: set it, e.g. {key}=<number>, or choose another cluster.price.kind")
    if not math.isfinite(value):
        raise ConfigError(f"{key}={value} is not a finite number: set {key} to one")
    if not (least <= value <= most and value > above):
        bounds = [f"at least {least:g}"] if least > -math.inf else []
        bounds += [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"at most {most:g}"] if most < math.inf else []
        raise ConfigError(f"{key}={value:g} is out of range: set it to {' and '.join(bounds)}")
    return float(value)
