"""Another currency beside the dollar: at a stated rate and no other."""

from __future__ import annotations

import pytest

from orchestrator.config.price_schema import CurrencyConfig
from orchestrator.config.schema import PriceConfig
from orchestrator.driver.first_event import run_started
from orchestrator.errors import ConfigError
from orchestrator.ledger.price_words import beside_dollars
from orchestrator.plan.forecast.price import currency_of
from orchestrator.plan.plan import make_plan
from tests.unit.config.test_conf import composed


def test_a_contract_in_euros_is_counted_in_dollars_and_shown_in_both() -> None:
    config = composed("job=llama3_8b", "cluster=azure_nd_h100_v5")
    config.cluster.price.currency = CurrencyConfig("EUR", 1.25, "2026-11-20", "ECB", price_per_gpu_hour=2.0)
    plan = make_plan(config, "train.py", "/", {})
    assert plan.billed_by.usd_per_gpu_hour == 2.5
    assert plan.prediction.cost_usd == pytest.approx(2.5 * (plan.prediction.gpu_hours or 0))
    lines = str(plan).splitlines()
    (shown,) = [line for line in lines if line.strip().startswith("in EUR")]
    assert f"{(plan.prediction.cost_usd or 0) / 1.25:,.0f} EUR (" in shown
    assert "2 EUR at 1.25 USD each, ECB; date: 2026-11-20" in " ".join(str(plan).split())
    started = run_started(plan, "r", None)
    assert (started.currency, started.usd_per_currency_unit) == ("EUR", 1.25)
    assert beside_dollars(started, 5.0) == {"in EUR": "4.00000 EUR at 1.25 USD each"}


def test_without_one_nothing_is_shown() -> None:
    plan = make_plan(composed("job=llama3_8b", "cluster=azure_nd_h100_v5"), "train.py", "/", {})
    assert beside_dollars(run_started(plan, "r", None), 5.0) == beside_dollars(None, 5.0) == {}
    assert currency_of(PriceConfig()) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            CurrencyConfig("EUR"),
            "cluster.price.currency.usd_per_unit is not set: nothing is assumed of a rate",
        ),
        (CurrencyConfig("EUR", 1.1), "cluster.price.currency.as_of is not set"),
        (CurrencyConfig("EUR", 1.1, "2026-11-20"), "cluster.price.currency.source is not set"),
        (CurrencyConfig("Euro", 1.1, "2026", "x"), "'Euro': is no other currency; write its three letters"),
        (CurrencyConfig("USD", 1.0, "2026", "x"), "'USD': is no other currency"),
        (
            CurrencyConfig(None, 1.1),
            "usd_per_unit is set, and no currency named; set cluster.price.currency.code",
        ),
        (CurrencyConfig(price_per_gpu_hour=2.0), "price_per_gpu_hour is set, and no currency named"),
    ],
)
def test_a_rate_that_is_not_stated_is_asked_for(given: CurrencyConfig, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        currency_of(PriceConfig(currency=given))
    assert said in str(refused.value)
