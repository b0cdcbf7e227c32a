"""The dashboard, the rules and what tells Prometheus where to look, as texts and maps of files."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.config.export_schema import MonitoringConfig
from orchestrator.ledger.monitoring.alerts import alerts
from orchestrator.ledger.monitoring.grafana import dashboard

EVERY = "15s"  # how often Prometheus asks


def rules(limits: MonitoringConfig) -> dict[str, Any]:
    """Prometheus' rules, which it reads from a file of their own."""
    made = [
        {
            "alert": alert.name,
            "expr": alert.query,
            "for": alert.for_,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.says, "description": alert.then},
        }
        for alert in alerts(limits)
    ]
    return {"groups": [{"name": "orchestrator", "rules": made}]}


def prometheus(found: dict[str, Any], rule_file: str) -> dict[str, Any]:
    """Its configuration; ``found`` is an entry of ``http_sd_configs``: Ray's dashboard says where the metrics
    are, to whoever has its token."""
    return {
        "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
        "rule_files": [rule_file],
        "scrape_configs": [{"job_name": "ray", "http_sd_configs": [found]}],
    }


def discovery(dashboard_url: str, credentials: dict[str, str]) -> dict[str, Any]:
    """Where Ray's dashboard tells of them."""
    return {
        "url": f"{dashboard_url}/api/prometheus/sd",
        "refresh_interval": "10s",
        "authorization": {"type": "Bearer", **credentials},
    }


def dashboard_json(indent: int | None = None) -> str:
    """The dashboard's file; on one line unless indented."""
    return json.dumps(dashboard(), indent=indent) + "\n"
