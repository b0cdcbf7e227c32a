"""The compose file of one machine."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from orchestrator.config.schema import MonitoringConfig
from orchestrator.errors import ConfigError
from orchestrator.export.compose import SECRETS
from orchestrator.ledger.monitoring.files import rules
from orchestrator.ledger.monitoring.grafana import dashboard
from tests.unit.export.orders import only, rendered

ONE = ("cluster=dgx_h100", "job=tiny_gpt", "cluster.nodes=1")


def services(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = only(rendered("compose", *words).files["compose.yaml"])["services"]
    return found


def test_a_run_has_its_gpus_its_memory_and_time_to_save() -> None:
    run = services(*ONE)["run"]
    assert run["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 8
    assert run["shm_size"] == pytest.approx(2 * 1.636e6 * 14 + 9e9, rel=1e-3)
    assert run["stop_grace_period"] == "60s"
    assert run["command"][-4:] == [
        "run_root=/runs", "run_name=tiny-gpt-dgx-h100", "job.resume=auto", "tracking.uri=http://127.0.0.1:5000",
    ]  # fmt: skip


def test_nothing_listens_beyond_this_machine() -> None:
    found = services(*ONE)
    assert found["postgres"]["network_mode"] == "none"
    assert "--host=127.0.0.1" in found["mlflow"]["command"]
    assert "--web.listen-address=127.0.0.1:9090" in found["prometheus"]["command"]
    assert found["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert not any("ports" in one for one in found.values())


def test_secrets_come_from_a_file_that_is_made_by_hand() -> None:
    made = rendered("compose", *ONE)
    text = made.files["compose.yaml"]
    for name in SECRETS:
        assert f"${{{name}:?" in text
        assert f"{name}=$(openssl rand -hex 32)" in made.next_steps[0]


def test_what_prometheus_and_grafana_read_is_yaml_of_its_own() -> None:
    configs = only(rendered("compose", *ONE).files["compose.yaml"])["configs"]
    (job,) = yaml.safe_load(configs["prometheus"]["content"])["scrape_configs"]
    assert job["http_sd_configs"][0]["url"] == "http://127.0.0.1:8265/api/prometheus/sd"
    assert (
        yaml.safe_load(configs["datasource"]["content"])["datasources"][0]["url"] == "http://127.0.0.1:9090"
    )


def test_they_get_the_rules_and_the_dashboard_as_they_are() -> None:
    """Compose fills in what follows a dollar, which is doubled where it is meant."""
    made = only(rendered("compose", *ONE).files["compose.yaml"])
    said = {name: one["content"] for name, one in made["configs"].items()}
    assert json.loads(said["dashboard"].replace("$$", "$")) == dashboard()
    assert yaml.safe_load(said["rules"].replace("$$", "$")) == rules(MonitoringConfig())
    for name, text in said.items():
        asks_for = re.findall(r"(?<!\$)(?:\$\$)*\$(?!\$)(.{0,20})", text)
        assert all(word.startswith("{RAY_AUTH_TOKEN:?") for word in asks_for), (name, asks_for)


def test_every_file_that_a_service_is_given_is_there() -> None:
    made = only(rendered("compose", *ONE).files["compose.yaml"])
    given = [config for one in made["services"].values() for config in one.get("configs", [])]
    assert {config["source"] for config in given} == made["configs"].keys()
    (rule_file,) = yaml.safe_load(made["configs"]["prometheus"]["content"])["rule_files"]
    folder = yaml.safe_load(made["configs"]["provider"]["content"])["providers"][0]["options"]["path"]
    targets = {config["source"]: config["target"] for config in given}
    assert targets["rules"] == rule_file
    assert targets["dashboard"].startswith(f"{folder}/")


def test_several_machines_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster.nodes=4: compose is for one machine"):
        rendered("compose", "cluster=dgx_h100", "job=llama3_8b", "cluster.nodes=4")
