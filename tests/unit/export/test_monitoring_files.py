"""What a Prometheus and a Grafana that are there already take."""

from __future__ import annotations

import json

import pytest
import yaml

from orchestrator.errors import ConfigError
from orchestrator.export.kuberay_pods import HEAD_PORTS
from orchestrator.export.monitoring import DASHBOARD, DATASOURCE, KUBERNETES, PROMETHEUS, PROVIDER, RULES
from orchestrator.ledger.monitoring.grafana import dashboard
from tests.unit.export.orders import rendered


def test_prometheus_is_told_where_ray_tells_of_its_metrics() -> None:
    files = rendered("monitoring", "monitoring.dashboard=ray.lab:8300").files
    body = yaml.safe_load(files[PROMETHEUS])
    assert body["rule_files"] == [RULES]
    (found,) = body["scrape_configs"][0]["http_sd_configs"]
    assert found["url"] == "http://ray.lab:8300/api/prometheus/sd"
    assert found["authorization"] == {"type": "Bearer", "credentials_file": "ray_token"}, (
        "a file, and no secret"
    )


def test_where_alerts_begin_is_a_key_each() -> None:
    text = rendered("monitoring", "monitoring.no_step_s=60", "monitoring.cost_usd_per_hour=5000").files[RULES]
    (group,) = yaml.safe_load(text)["groups"]
    begins = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert begins["NoStep"].endswith("> 60")
    assert begins["CostRateHigh"].endswith("> 5000")


def test_grafana_is_told_of_both() -> None:
    files = rendered("monitoring").files
    assert json.loads(files[DASHBOARD]) == dashboard()
    assert yaml.safe_load(files[DATASOURCE])["datasources"][0]["type"] == "prometheus"
    assert yaml.safe_load(files[PROVIDER])["providers"][0]["type"] == "file"


def test_an_operator_is_given_the_same() -> None:
    files = rendered("monitoring", "monitoring.release=kps", "kuberay.namespace=llm").files
    asks, alerts, shown = yaml.safe_load_all(files[KUBERNETES])
    assert asks["spec"]["podMetricsEndpoints"][0]["port"] in HEAD_PORTS
    assert alerts["spec"] == yaml.safe_load(files[RULES])
    assert json.loads(shown["data"][DASHBOARD]) == dashboard()
    for one in (asks, alerts, shown):
        assert one["metadata"]["namespace"] == "llm"
    assert asks["metadata"]["labels"] == alerts["metadata"]["labels"] == {"release": "kps"}


@pytest.mark.parametrize("address", ["lab", "http://lab:8265", ":8265", "lab:", "lab:99999", "lab:1234567"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"monitoring\.dashboard=.*: is no HOST:PORT; write the address"):
        rendered("monitoring", f"monitoring.dashboard={address}")
