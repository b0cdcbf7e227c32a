"""Owning against renting: by hand, and what holds for every machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import GpuConfig, PriceConfig, PriceKind, PriceQuality
from orchestrator.plan.forecast.owning import HOURS_PER_YEAR, Ownership, break_even
from orchestrator.plan.forecast.price import is_offered, ownership

# An H100 for 30,000 dollars: 1,275 W with its share of the node, PUE 1.5, 0.08 dollars a kWh.
H100 = Ownership(
    capex_usd=30_000,
    lifetime_years=5,
    occupancy=0.8,
    staff_usd_per_year=600,
    power_usd_per_hour=1.275 * 1.5 * 0.08,
    pue=1.5,
)
owned = st.builds(
    Ownership,
    capex_usd=st.floats(1e3, 1e5),
    lifetime_years=st.floats(1, 10),
    occupancy=st.floats(0.05, 1),
    staff_usd_per_year=st.floats(0, 5e3),
    power_usd_per_hour=st.floats(0, 0.5),
    pue=st.just(1.5),
)


def test_an_h100_for_30000_dollars_against_three_dollars_an_hour() -> None:
    """584.4 hours in use a month save 2.847 dollars each, of which staff takes 50: 18.6 months."""
    found = break_even(H100, 3.0)
    assert found.months == pytest.approx(30_000 / (584.4 * (3 - 0.153) - 50), rel=1e-3)
    assert found.months == pytest.approx(18.6, abs=0.05)
    assert found.within_lifetime
    assert found.occupancy == pytest.approx(33_000 / (43_830 * 2.847), rel=1e-3)


def test_renting_for_less_than_the_power_never_pays_and_owning_too_late_is_said() -> None:
    cheap = break_even(H100, 0.1)
    assert (cheap.months, cheap.occupancy, cheap.within_lifetime) == (None, None, False)
    late = break_even(H100, 1.0)
    assert late.months is not None
    assert late.months > 60
    assert not late.within_lifetime


@given(owned, st.floats(0.05, 20), st.floats(1.01, 3))
def test_a_dearer_rent_pays_off_sooner(machine: Ownership, rent: float, more: float) -> None:
    less, dear = break_even(machine, rent), break_even(machine, rent * more)
    if less.months is not None:
        assert dear.months is not None
        assert dear.months < less.months
    if less.occupancy is not None:
        assert dear.occupancy is not None
        assert dear.occupancy < less.occupancy


@given(owned, st.floats(0.05, 20), st.floats(1.01, 3))
def test_a_dearer_machine_pays_off_later(machine: Ownership, rent: float, more: float) -> None:
    cheap, dear = (
        break_even(machine, rent),
        break_even(replace(machine, capex_usd=machine.capex_usd * more), rent),
    )
    if cheap.months is not None:
        assert dear.months is not None
        assert dear.months > cheap.months


@given(owned, st.floats(0.05, 20))
def test_owned_and_rented_add_up_where_they_break_even(machine: Ownership, rent: float) -> None:
    """In use as often as is needed, its whole life costs what renting the hours would; and it pays within its
    life where it is in use more often than that, and not where less."""
    found = break_even(machine, rent)
    if found.occupancy is None:
        return
    if found.occupancy <= 1:
        as_needed = replace(machine, occupancy=found.occupancy)
        assert as_needed.usd_per_gpu_hour == pytest.approx(rent)
        assert as_needed.lifetime_usd == pytest.approx(as_needed.hours_in_use * rent)
    if machine.occupancy > found.occupancy * (1 + 1e-9):
        assert found.within_lifetime
    if machine.occupancy < found.occupancy * (1 - 1e-9):
        assert not found.within_lifetime


@given(owned)
def test_an_hour_in_use_bears_its_share_of_everything(machine: Ownership) -> None:
    assert machine.usd_per_gpu_hour * machine.hours_in_use == pytest.approx(machine.lifetime_usd)
    assert machine.hours_in_use == pytest.approx(machine.lifetime_years * HOURS_PER_YEAR * machine.occupancy)


def test_staff_is_in_the_price_of_an_hour() -> None:
    price = PriceConfig(
        kind=PriceKind.owned, capex_usd_per_gpu=35_064, lifetime_years=4, occupancy=0.5, power_w_per_gpu=0,
        pue=1.5, electricity_usd_per_kwh=0.1, staff_usd_per_gpu_year=876.6, source="estimate", as_of="2024",
    )  # fmt: skip
    assert ownership(price, GpuConfig(name="H100")).usd_per_gpu_hour == pytest.approx(2 + 0.2)


@pytest.mark.parametrize(
    ("kind", "quality", "offered"),
    [
        (PriceKind.list, PriceQuality.list, True),
        (PriceKind.list, PriceQuality.quote, True),
        (PriceKind.list, PriceQuality.estimate, False),
        (PriceKind.list, PriceQuality.assumption, False),
        (PriceKind.spot, PriceQuality.assumption, True),
        (PriceKind.reserved, PriceQuality.list, True),
        (PriceKind.owned, PriceQuality.quote, False),
    ],
)
def test_what_somebody_rents_at(kind: PriceKind, quality: PriceQuality, offered: bool) -> None:
    assert is_offered(PriceConfig(kind=kind, quality=quality, source="", as_of="")) is offered
