"""Prices by hand, refusals by message, and properties of owned hardware."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import GpuConfig, PriceConfig, PriceKind, PriceQuality
from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.price import offers, price_usd_per_gpu_hour

GPU = GpuConfig(name="H100", tdp_w=700)
LISTED = PriceConfig(kind=PriceKind.list, usd_per_gpu_hour=6.88, source="catalog", as_of="2026-01")
OWNED = PriceConfig(
    kind=PriceKind.owned,
    capex_usd_per_gpu=35064.0,
    lifetime_years=4.0,
    occupancy=0.5,
    power_w_per_gpu=1000.0,
    pue=1.5,
    electricity_usd_per_kwh=0.1,
    source="estimate",
    as_of="2024",
)
RENTED = replace(
    LISTED,
    reserved_usd_per_gpu_hour=4.0,
    reserved_source="one year",
    spot_usd_per_gpu_hour=2.5,
    spot_source="us-east-1",
)
EVERY = replace(RENTED, capex_usd_per_gpu=35064.0, lifetime_years=4.0, pue=1.5, electricity_usd_per_kwh=0.1)


def test_list_price_is_taken_as_it_is_and_keeps_its_source() -> None:
    price = price_usd_per_gpu_hour(LISTED, GPU)
    assert price.usd_per_gpu_hour == 6.88
    assert price.source == "quote: catalog; date: 2026-01"


@pytest.mark.parametrize(
    ("quality", "called", "paid"),
    [
        (PriceQuality.list, "list price", "on demand"),
        (PriceQuality.quote, "quote", "on demand"),
        (PriceQuality.estimate, "estimate", "estimated"),
        (PriceQuality.assumption, "assumption", "assumed"),
    ],
)
def test_a_price_is_called_what_it_is_worth(quality: PriceQuality, called: str, paid: str) -> None:
    offer = offers(replace(LISTED, quality=quality), GPU)[0]
    assert (offer.source, offer.paid) == (f"{called}: catalog; date: 2026-01", paid)


def test_owned_price_by_hand() -> None:
    """35,064 USD over 4 years of 8,766 hours: 1 USD an hour, 2 at half occupancy; power 1 kW x 1.5 x 0.1."""
    assert price_usd_per_gpu_hour(OWNED, GPU).usd_per_gpu_hour == pytest.approx(2.15)


def test_owned_price_falls_back_on_the_gpus_power() -> None:
    price = price_usd_per_gpu_hour(replace(OWNED, power_w_per_gpu=None), GPU)
    assert price.usd_per_gpu_hour == pytest.approx(2 + 0.7 * 1.5 * 0.1)


@pytest.mark.parametrize(
    ("price", "change", "message"),
    [
        (LISTED, {"usd_per_gpu_hour": None}, r"cluster\.price\.usd_per_gpu_hour is not set: set it"),
        (LISTED, {"usd_per_gpu_hour": 1000.5}, r"comes to 1000\.5 USD per GPU-hour, above 1000"),
        (OWNED, {"electricity_usd_per_kwh": None}, r"electricity_usd_per_kwh is not set"),
        (OWNED, {"lifetime_years": 1e-6}, r"above 1000"),
        (RENTED, {"reserved_usd_per_gpu_hour": 1001.0}, r"\(reserved\) comes to 1001 USD"),
        (
            RENTED,
            {"kind": PriceKind.owned},
            r"capex_usd_per_gpu is not set: .*figures here: list, reserved, spot\)",
        ),
        (
            OWNED,
            {"kind": PriceKind.spot},
            r"spot_usd_per_gpu_hour is not set: .*kind=spot .*figures here: owned\)",
        ),
        (
            PriceConfig(source="", as_of=""),
            {},
            r"cluster\.price\.usd_per_gpu_hour is not set: .*none has its figures",
        ),
    ],
)
def test_absurd_figures_are_refused_in_one_line(
    price: PriceConfig, change: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        price_usd_per_gpu_hour(replace(price, **change), GPU)
    assert "\n" not in str(refusal.value)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


owned = st.builds(
    lambda capex, years, occupancy, power, pue, kwh: replace(
        OWNED,
        capex_usd_per_gpu=capex,
        lifetime_years=years,
        occupancy=occupancy,
        power_w_per_gpu=power,
        pue=pue,
        electricity_usd_per_kwh=kwh,
    ),
    st.floats(1, 1e5),
    st.floats(1, 10),
    st.floats(0.2, 1),
    st.floats(0, 2000),
    st.floats(1, 3),
    st.floats(0, 1),
)


@given(owned)
def test_owned_price_is_positive_and_idle_hours_make_it_dearer(price: PriceConfig) -> None:
    full = price_usd_per_gpu_hour(replace(price, occupancy=1.0), GPU).usd_per_gpu_hour
    assert 0 < full <= price_usd_per_gpu_hour(price, GPU).usd_per_gpu_hour
    longer = replace(price, lifetime_years=price.lifetime_years * 2)  # type: ignore[operator]
    assert (
        price_usd_per_gpu_hour(longer, GPU).usd_per_gpu_hour
        < price_usd_per_gpu_hour(price, GPU).usd_per_gpu_hour
    )


# --- offers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(PriceKind))
def test_the_chosen_kind_comes_first_and_is_the_price(kind: PriceKind) -> None:
    price = replace(EVERY, kind=kind)
    named = offers(price, GPU)
    assert named[0].kind is kind
    assert [offer.kind for offer in named[1:]] == [other for other in PriceKind if other is not kind]
    assert price_usd_per_gpu_hour(price, GPU).usd_per_gpu_hour == named[0].usd_per_gpu_hour
    assert price_usd_per_gpu_hour(price, GPU).source == named[0].source


def test_every_offer_has_its_own_figure_and_source() -> None:
    by_kind = {offer.kind: offer for offer in offers(EVERY, GPU)}
    assert by_kind[PriceKind.list].usd_per_gpu_hour == 6.88
    assert (by_kind[PriceKind.reserved].usd_per_gpu_hour, by_kind[PriceKind.reserved].source) == (
        4.0,
        "reserved: one year",
    )
    assert (by_kind[PriceKind.spot].usd_per_gpu_hour, by_kind[PriceKind.spot].source) == (
        2.5,
        "spot: us-east-1",
    )
    assert by_kind[PriceKind.owned].usd_per_gpu_hour == pytest.approx(1 + 0.7 * 1.5 * 0.1)


@pytest.mark.parametrize(
    "key", ["capex_usd_per_gpu", "lifetime_years", "pue", "electricity_usd_per_kwh", "spot_usd_per_gpu_hour"]
)
def test_a_kind_that_lacks_a_figure_is_left_out(key: str) -> None:
    kinds = {offer.kind for offer in offers(replace(EVERY, **{key: None}), GPU)}  # type: ignore[arg-type]
    assert set(PriceKind) - kinds == {PriceKind.spot if key.startswith("spot") else PriceKind.owned}


def test_owned_needs_a_power_from_somewhere() -> None:
    unknown = replace(GPU, tdp_w=None)
    assert PriceKind.owned not in {offer.kind for offer in offers(EVERY, unknown)}
    assert PriceKind.owned in {
        offer.kind for offer in offers(replace(EVERY, power_w_per_gpu=1000.0), unknown)
    }


def test_a_listed_price_of_zero_is_an_offer() -> None:
    assert offers(replace(LISTED, usd_per_gpu_hour=0.0), GPU)[0].usd_per_gpu_hour == 0
