"""What infra/monitoring ships beside a run of the queue: a real Prometheus finds Ray by its dashboard, takes the
rules, and has an answer to whatever the dashboard and the alerts ask."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import generate_examples
from orchestrator.config.schema import MonitoringConfig
from orchestrator.export.monitoring import PROMETHEUS, RULES, TOKEN
from orchestrator.ledger.monitoring.alerts import alerts
from orchestrator.ledger.monitoring.grafana import dashboard
from tests.faults.runs import COMMON, MARKS, UNTRACKED, User
from tests.services.processes import Service
from tests.services.test_prometheus import Prometheus
from tests.support.paced import PACE_S, paced

pytestmark = MARKS

FLEET = """\
pools: {cpus: {nodes: 1, gpus_per_node: 2, resource: CPU}}
teams: {nlp: {quota: {cpus: 2}, usd_per_month: 100}, cv: {}}
"""
# Two that are of the pool's size: one runs, the other waits.
JOB = [
    *COMMON, UNTRACKED, "job.steps=100000", "job.args.checkpoint_every=0", "budget.usd=1000",
    "budget.may_fall_short=true",
]  # fmt: skip
KEYS = ("watched-1", "watched-2")
# What has an answer only when somebody has to be called.
SILENT_OTHERWISE = {"QueueSilent"}
LONG_S = 400.0


def asked_by_the_dashboard() -> dict[str, str]:
    """As it is with all runs of all clusters chosen."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$run", ".*").replace("$cluster", ".*")
            found[f"{panel['title']}, {target['legendFormat']}"] = query
    return found


def asked_by_the_alerts() -> dict[str, str]:
    made = alerts(MonitoringConfig())
    return {alert.name: alert.figure for alert in made if alert.name not in SILENT_OTHERWISE}


class Shipped(Prometheus):
    """With the files as they are shipped, but for the port of the dashboard and how often it asks. As often as
    here Ray forgets a gauge within seconds, if the machine is busy: each answer is waited for."""

    def __init__(self, folder: Path, user: User) -> None:
        assert user.kept is not None
        assert user.kept.dashboard_url is not None
        text = (generate_examples.MONITORING / PROMETHEUS).read_text()
        assert "http://127.0.0.1:8265" in text
        text = text.replace("http://127.0.0.1:8265", user.kept.dashboard_url.rstrip("/"))
        (folder / RULES).write_text((generate_examples.MONITORING / RULES).read_text())
        printed = subprocess.run(
            [str(Path(sys.executable).with_name("ray")), "get-auth-token"],
            env=user.environment, check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        (folder / TOKEN).write_text(printed.stdout)
        super().__init__(folder, text.replace("15s", "1s"))

    def answer(self, query: str) -> list[dict[str, Any]]:
        """As soon as there is one."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self.ask(query)
            return bool(found)

        self.service.until(there)
        return found


@pytest.fixture(scope="module")
def prometheus(keeper: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shipped]:
    """Beside a queue of two jobs, once it has an answer to everything."""
    runs = keeper.folder / "runs"
    (runs / "fleet.yaml").write_text(FLEET)
    folder = tmp_path_factory.mktemp("monitoring")
    for key, team in zip(KEYS, ("nlp", "cv"), strict=True):
        words = [f"team={team}", f"key={key}", *JOB, *paced(runs / f"{key}.hurry", PACE_S)]
        done = keeper.command("submit", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "orchestrator", "dispatch", f"run_root={runs}"]
    daemon = Service(command, keeper.folder, keeper.environment)
    shipped = Shipped(folder, keeper)
    try:
        shipped.start()
        wanted = [*asked_by_the_dashboard().values(), *asked_by_the_alerts().values()]
        shipped.service.until(
            lambda: all(map(shipped.ask, wanted)) or daemon.process.poll() is not None, LONG_S
        )
        yield shipped
    finally:
        for key in KEYS:
            keeper.command("cancel", key)
        daemon.until(lambda: '"jobs": []' in keeper.command("queue", "--json").stdout)
        daemon.close()
        shipped.service.close()


@pytest.mark.parametrize("query", asked_by_the_dashboard().values(), ids=asked_by_the_dashboard().keys())
def test_every_panel_has_figures(prometheus: Shipped, query: str) -> None:
    series = prometheus.answer(query)
    assert all(math.isfinite(float(one["value"][1])) for one in series)


@pytest.mark.parametrize("query", asked_by_the_alerts().values(), ids=asked_by_the_alerts().keys())
def test_every_alert_has_a_figure(prometheus: Shipped, query: str) -> None:
    assert prometheus.answer(query)


def test_prometheus_has_taken_every_rule(prometheus: Shipped) -> None:
    said = prometheus.get("/api/v1/rules")
    assert said is not None
    (group,) = json.loads(said)["data"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    assert [rule["name"] for rule in rules] == [alert.name for alert in alerts(MonitoringConfig())]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not [rule["name"] for rule in rules if rule["state"] == "firing"]


def test_the_queue_s_figures_are_those_of_its_verbs(prometheus: Shipped) -> None:
    """One job of the team runs, the other team's waits for what it has."""

    def value(query: str) -> dict[str, float]:
        return {one["metric"].get("team", ""): float(one["value"][1]) for one in prometheus.answer(query)}

    running = 'max by (team) (ray_orchestrator_queue_jobs{state="running"})'
    assert value(running) == {"nlp": 1.0, "cv": 0.0}
    assert value('max by (team) (ray_orchestrator_queue_jobs{state="queued"})') == {"nlp": 0.0, "cv": 1.0}
    assert value("max by (team) (ray_orchestrator_queue_gpus)") == {"nlp": 2.0, "cv": 0.0}
    assert value("max by (team) (ray_orchestrator_queue_gpus_waiting)") == {"nlp": 0.0, "cv": 2.0}
