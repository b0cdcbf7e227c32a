"""The part of the schema that says what accelerators cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.choices import MISSING, PriceKind, PriceQuality
from orchestrator.config.ranges import HoursAbove0, Pue, Share, Usd, UsdAbove0, WattsOr0, Years


@dataclass
class CurrencyConfig:
    """Another currency than the dollar, at a stated rate: totals are dollars, and shown in it beside them."""

    code: str | None = None  # EUR, GBP, …; null is none
    usd_per_unit: UsdAbove0 | None = None  # the rate: what one of it is in dollars
    as_of: str | None = None  # date of the rate
    source: str | None = None  # where the rate comes from
    # what an accelerator-hour costs in it, in place of the dollars of cluster.price.kind; null is those
    price_per_gpu_hour: Usd | None = None


@dataclass
class PriceConfig:
    """What one accelerator-hour costs. ``list``: ``usd_per_gpu_hour`` as published. ``owned``: capex and
    staff spread over the hours in use, plus power drawn x PUE x electricity price. A plan names the cost by
    every kind whose figures are there; ``kind`` is the one that a run is billed by."""

    # list: on demand; reserved, spot: rented too; owned: hardware written off
    kind: PriceKind = PriceKind.list
    usd_per_gpu_hour: Usd | None = None  # of kind list; per accelerator, not per node
    # of usd_per_gpu_hour, or of what is owned; a budget rents for a list price or a quote
    quality: PriceQuality = PriceQuality.quote
    reserved_usd_per_gpu_hour: UsdAbove0 | None = None  # of kind reserved
    reserved_source: str = ""  # with the term that it is for
    reserved_until: str | None = None  # the day that it ends, as 2025-01-01; null is not known
    spot_usd_per_gpu_hour: UsdAbove0 | None = None  # of kind spot
    spot_source: str = ""
    # hours between two reclaims of one spot node; null is not known: a plan then counts faults alone
    spot_node_hours_per_interruption: HoursAbove0 | None = None
    capex_usd_per_gpu: Usd | None = None  # with its share of node and network
    lifetime_years: Years | None = None  # over which the capex is written off
    occupancy: Share = 1.0  # share of the lifetime that is sold or used, above 0 to 1; the rest is idle
    staff_usd_per_gpu_year: Usd = 0.0  # of those who run the owned machines and their building
    power_w_per_gpu: WattsOr0 | None = None  # at work, with its share of the node; null is gpu.tdp_w
    pue: Pue | None = None  # power usage effectiveness of the data centre, 1 or more
    electricity_usd_per_kwh: Usd | None = None  # at the site
    # the price of kind from a time of each day or from a date on, in dollars: {8h: 2.40, 18h: 1.20} or
    # {2026-12-01: 2.10}; in this machine's time unless it ends in Z or +01:00. A bill has each second at the
    # price of that second
    schedule: dict[str, Usd] = field(default_factory=dict)
    file: str | None = None  # the same in a file of YAML, which is read again while a run goes on
    # when a plan takes its run to begin, for what a schedule makes of that, as 2026-12-01T18:00; null is now
    begins: str | None = None
    currency: CurrencyConfig = field(default_factory=CurrencyConfig)
    source: str = MISSING  # where the figures come from; printed with every price
    as_of: str = MISSING  # date of the figures
