"""Owning an accelerator instead of renting it: what an hour in use costs, and when it has paid off."""

from __future__ import annotations

from dataclasses import dataclass

HOURS_PER_YEAR = 365.25 * 24


@dataclass(frozen=True)
class Ownership:
    """One owned accelerator. Interest on the capital, network, storage and the building itself are not in
    it."""

    capex_usd: float  # its price, with its share of the node
    lifetime_years: float  # over which that is written off
    occupancy: float  # share of the hours that it is in use, above 0 to 1
    staff_usd_per_year: float  # of those who run it
    power_usd_per_hour: float  # of an hour in use, PUE included
    pue: float  # power usage effectiveness of the building, which the power has in it

    @property
    def hours_in_use(self) -> float:
        """Of its whole life."""
        return self.lifetime_years * HOURS_PER_YEAR * self.occupancy

    @property
    def lifetime_usd(self) -> float:
        """Of its whole life: machine, staff and power."""
        return self._fixed_usd + self.hours_in_use * self.power_usd_per_hour

    @property
    def usd_per_gpu_hour(self) -> float:
        """Of an hour in use, which carries the idle ones."""
        return self._fixed_usd / self.hours_in_use + self.power_usd_per_hour

    @property
    def _fixed_usd(self) -> float:
        return self.capex_usd + self.staff_usd_per_year * self.lifetime_years


@dataclass(frozen=True)
class BreakEven:
    """When an owned accelerator has cost as much as renting one for the hours that it was in use."""

    rent_usd_per_gpu_hour: float  # what is compared with
    # in use as the owner expects; null where each month costs as much as its rent, or more
    months: float | None
    # share of the hours of its whole life that it has to be in use; above 1 it never pays, and null where an
    # hour's power alone costs as much as the rent
    occupancy: float | None
    within_lifetime: bool  # whether it pays before it is written off


def break_even(owned: Ownership, rent_usd_per_gpu_hour: float) -> BreakEven:
    """Machine and staff against what each hour in use saves, which is its rent without its power."""
    saved_usd_per_hour = rent_usd_per_gpu_hour - owned.power_usd_per_hour
    hours_a_month = owned.occupancy * HOURS_PER_YEAR / 12
    saved_usd_a_month = hours_a_month * saved_usd_per_hour - owned.staff_usd_per_year / 12
    months = owned.capex_usd / saved_usd_a_month if saved_usd_a_month > 0 else None
    fixed_usd = owned.capex_usd + owned.staff_usd_per_year * owned.lifetime_years
    saved_usd_always_in_use = owned.lifetime_years * HOURS_PER_YEAR * saved_usd_per_hour
    return BreakEven(
        rent_usd_per_gpu_hour=rent_usd_per_gpu_hour,
        months=months,
        occupancy=fixed_usd / saved_usd_always_in_use if saved_usd_per_hour > 0 else None,
        within_lifetime=months is not None and months <= owned.lifetime_years * 12,
    )
