"""The dashboard as Grafana's own library reads it: nothing of it is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra import generate_examples
from orchestrator.ledger.monitoring.files import dashboard_json
from orchestrator.ledger.monitoring.grafana import dashboard
from tests.services.needs import module


def read_and_written(text: str) -> dict[str, Any]:
    """By the library, with whatever it adds of its own."""
    module("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    read = Dashboard.from_json(json.loads(text))
    made: dict[str, Any] = json.loads(JSONEncoder().encode(read))
    return made


def lost(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """What of ours is not in theirs, or is another there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        missing = [f"{where}.{key}" for key in ours if key not in theirs]
        return missing + [
            found
            for key in ours.keys() & theirs.keys()
            for found in lost(ours[key], theirs[key], f"{where}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [found for at, one in enumerate(ours) for found in lost(one, theirs[at], f"{where}[{at}]")]
    return [] if ours == theirs else [f"{where}: {ours!r} became {theirs!r}"]


@pytest.mark.parametrize(
    "text", [dashboard_json(), (generate_examples.MONITORING / "dashboard.json").read_text()]
)
def test_grafana_s_library_reads_and_writes_the_dashboard_without_loss(text: str) -> None:
    made = read_and_written(text)
    assert lost(json.loads(text), made) == []
    assert len(made["panels"]) == len(dashboard()["panels"])
    assert read_and_written(json.dumps(made)) == made


def test_what_the_library_does_not_know_is_lost() -> None:
    """So the test above would see a key that Grafana has no use for."""
    body = dashboard()
    body["panels"][1]["targets"][0]["legend"] = "A"
    assert lost(body, read_and_written(json.dumps(body))) == [".panels[1].targets[0].legend"]
