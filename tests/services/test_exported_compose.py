"""What `export format=compose` writes, without containers: the run's command as it stands there, and a Prometheus
with the configuration that stands there, which finds the run by Ray's dashboard and the token."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.config.schema import MonitoringConfig
from orchestrator.ledger.monitoring.alerts import alerts
from tests.faults.runs import COMMON, MARKS, UNTRACKED, User
from tests.services.runs import SHORT
from tests.services.test_prometheus import Prometheus

pytestmark = MARKS

WORDS = [*COMMON, *SHORT, UNTRACKED, "launch.dashboard=true", "cluster.nodes=1"]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    one = User(tmp_path, {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_metrics_report_interval_ms": "1000"})
    yield one
    subprocess.run(
        [sys.executable, "-m", "orchestrator", "down", "--force"],
        cwd=one.folder, env=one.environment, check=True, capture_output=True, timeout=120,
    )  # fmt: skip


def test_the_run_of_a_compose_file_is_found_by_its_prometheus(user: User) -> None:
    words = [sys.executable, "-m", "orchestrator", "export", "format=compose", *WORDS]
    text = subprocess.run(
        words, cwd=user.folder, env=user.environment, check=True, capture_output=True, text=True
    ).stdout
    made = yaml.safe_load(text)
    command = [
        word.replace("$$", "$").replace("/runs", str(user.folder / "runs"))
        for word in made["services"]["run"]["command"]
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=user.folder, env={**user.environment, "PATH": path}, check=False,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = user.folder.rglob("cluster.json")
    cluster = WarmCluster(**yaml.safe_load(record.read_text()))
    assert cluster.dashboard_url is not None
    configuration = made["configs"]["prometheus"]["content"]
    for name in ("RAY_AUTH_TOKEN",):
        said = f"${{{name}:?make .env first, as export said}}"
        assert said in configuration
        configuration = configuration.replace(said, user.environment[name])
    configuration = configuration.replace("http://127.0.0.1:8265", cluster.dashboard_url.rstrip("/"))
    rules = made["configs"]["rules"]["content"].replace("$$", "$")
    (user.folder / "rules.yml").write_text(rules)
    configuration = configuration.replace("/etc/prometheus/rules.yml", "rules.yml")
    prometheus = Prometheus(user.folder, configuration)
    try:
        prometheus.start()
        prometheus.service.until(lambda: prometheus.ask('up{job="ray"} == 1'))
        said = prometheus.get("/api/v1/rules")
        assert said is not None
        (group,) = json.loads(said)["data"]["groups"]
        assert len(group["rules"]) == len(alerts(MonitoringConfig()))
    finally:
        prometheus.service.close()
