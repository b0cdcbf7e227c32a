"""The dashboard as Grafana reads it, since version 10: its JSON model, and the files that give it to a
Grafana which starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.ledger.monitoring.panels import ROWS, Form, Panel, Row
from orchestrator.ledger.monitoring.queries import exported

UID, TITLE = "orchestrator", "Orchestrator: runs and queue"
# Where a Grafana in a container looks for dashboards that it is given.
DASHBOARDS = "/etc/grafana/dashboards"
_SCHEMA = 39  # of the model; a newer Grafana brings it up to date by itself
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24  # columns of a page
_NUMBER_SIZE, _LINES_SIZE = (4, 4), (8, 8)  # columns and rows of a panel


def dashboard() -> dict[str, Any]:
    """The whole model."""
    return {
        "uid": UID,
        "title": TITLE,
        "description": "Made by 'python -m orchestrator export format=monitoring'; changes go there.",
        "tags": ["orchestrator"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": _SCHEMA,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_placed(ROWS)),
    }


def datasource(prometheus_url: str) -> dict[str, Any]:
    """For Grafana's folder ``provisioning/datasources``."""
    source = {"name": "Prometheus", "type": "prometheus", "url": prometheus_url, "isDefault": True}
    return {"apiVersion": 1, "datasources": [source]}


def provider() -> dict[str, Any]:
    """For Grafana's folder ``provisioning/dashboards``: where dashboards are."""
    one = {"name": "orchestrator", "type": "file", "options": {"path": DASHBOARDS}}
    return {"apiVersion": 1, "providers": [one]}


def _variables() -> list[dict[str, Any]]:
    """What a reader chooses: whose Prometheus, which clusters, which runs."""
    step = exported("orchestrator_step")
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _choice("cluster", "Cluster", f"label_values({step}, cluster)"),
        _choice("run", "Run", f'label_values({step}{{cluster=~"$cluster"}}, run)'),
    ]


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,  # when the time that is looked at changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # also those without the label
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """From the left to the right, from the top down."""
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
        }  # fmt: skip
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            number += 1
            width, panel_height = _NUMBER_SIZE if panel.form is Form.NUMBER else _LINES_SIZE
            if left + width > _WIDTH:
                top, left, height = top + height, 0, 0
            place = {"x": left, "y": top, "w": width, "h": panel_height}
            yield {"id": number, **_panel(panel), "gridPos": place}
            left, height = left + width, max(height, panel_height)
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    is_number = panel.form is Form.NUMBER
    fields: dict[str, Any] = {"unit": panel.unit.value}
    if panel.smallest is not None:
        fields["min"] = panel.smallest
    if not is_number:
        stacked = panel.form is Form.STACKED
        mode = {"mode": "normal" if stacked else "none", "group": "A"}
        fields["custom"] = {
            "fillOpacity": 30 if stacked else 0,
            "stacking": mode,
            "showPoints": "never",
            "spanNulls": False,
        }
    return {
        "type": "stat" if is_number else "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": asked.query,
                "legendFormat": asked.legend,
                "range": not is_number,
                "instant": is_number,
            }
            for place, asked in enumerate(panel.asked)
        ],
        "fieldConfig": {"defaults": fields, "overrides": []},
        "options": _NUMBER_OPTIONS if is_number else _LINES_OPTIONS,
    }


_NUMBER_OPTIONS: dict[str, Any] = {
    "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
    "colorMode": "none",
    "graphMode": "none",
    "textMode": "value",
    "justifyMode": "auto",
    "orientation": "auto",
}
_LINES_OPTIONS: dict[str, Any] = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
