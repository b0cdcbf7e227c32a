"""The dashboard and the alerts that are made of the gauges: none is forgotten, and none is asked for that is
not there."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest

from orchestrator.config.schema import MonitoringConfig
from orchestrator.ledger.monitoring import files, queries
from orchestrator.ledger.monitoring.alerts import alerts
from orchestrator.ledger.monitoring.gauges import ALL_LABELS, EXPORTED, GAUGES
from orchestrator.ledger.monitoring.grafana import dashboard
from orchestrator.ledger.monitoring.panels import ROWS

NAME = re.compile(rf"{EXPORTED}(orchestrator_\w+)")


def asked() -> list[str]:
    return [one.query for row in ROWS for panel in row.panels for one in panel.asked]


def test_every_gauge_is_on_the_dashboard() -> None:
    assert {name for query in asked() for name in NAME.findall(query)} == GAUGES.keys()


def test_alerts_ask_for_gauges_that_are_there() -> None:
    for alert in alerts(MonitoringConfig()):
        names = NAME.findall(alert.query)
        assert names
        assert set(names) <= GAUGES.keys(), alert.name
    with pytest.raises(KeyError):
        queries.one_each("orchestrator_stepp")


def test_legends_and_labels_are_of_the_gauges() -> None:
    for row in ROWS:
        for panel in row.panels:
            for one in panel.asked:
                named = set(re.findall(r"\{\{(\w+)\}\}", one.legend))
                assert named <= ALL_LABELS.keys(), panel.title
                kept = re.findall(r"by \(([^)]*)\)", one.query)
                outermost = set(kept[0].split(", ")) if kept else set()
                assert named <= outermost, f"{panel.title}: nothing of that name is left in {one.query}"


def test_where_an_alert_begins_is_said_in_the_configuration() -> None:
    limits = MonitoringConfig(
        no_step_s=111, goodput=0.222, cost_usd_per_hour=333, budget=0.444, wait_hours=555
    )
    begins = {alert.name: alert.too for alert in alerts(limits)}
    assert begins["NoStep"] == "> 111"
    assert begins["GoodputLow"] == "< 0.222"
    assert begins["CostRateHigh"] == "> 333"
    assert begins["BudgetMostlySpent"] == begins["TeamBudgetMostlySpent"] == "> 0.444"
    assert begins["JobsWaitLong"] == f"> {555 * 3600}"


def test_panels_lie_side_by_side_and_have_numbers_of_their_own() -> None:
    panels: list[dict[str, Any]] = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_an_alert_says_what_to_type() -> None:
    for alert in alerts(MonitoringConfig()):
        assert "python -m orchestrator " in alert.then, alert.name
        (rule,) = [
            one for one in files.rules(MonitoringConfig())["groups"][0]["rules"] if one["alert"] == alert.name
        ]
        assert rule["annotations"] == {"summary": alert.says, "description": alert.then}
