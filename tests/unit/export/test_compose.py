"""The compose file of one machine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from orchestrator.errors import ConfigError
from orchestrator.export.compose import SECRETS
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


def test_several_machines_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster.nodes=4: compose is for one machine"):
        rendered("compose", "cluster=dgx_h100", "job=llama3_8b", "cluster.nodes=4")
