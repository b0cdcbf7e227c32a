"""The alerts as Prometheus' own tool plays them: each fires when it should, says so in a readable sentence, and
is silent when all is well."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import generate_examples
from orchestrator.config.schema import MonitoringConfig
from orchestrator.export.monitoring import PROMETHEUS, RULES, TOKEN
from orchestrator.ledger.monitoring.alerts import alerts
from tests.services.needs import program

RUN = {"run": "night", "cluster": "lab"}
OF_RUN = 'run="night",cluster="lab"'

Series = dict[str, str]  # values by series, as promtool writes them, a minute apart


def of_run(name: str, more: str = "") -> str:
    return f'ray_orchestrator_{name}{{{OF_RUN}{more},WorkerId="1"}}'


def held(gpus: int) -> Series:
    return {of_run("gpus_held"): f"{gpus}x120"}


def buckets(training_s: int, recovering_s: int) -> Series:
    """So many seconds of each in a minute."""
    return {
        of_run("bucket_s", ',bucket="training"'): f"0+{training_s}x120",
        of_run("bucket_s", ',bucket="recovering"'): f"0+{recovering_s}x120",
        of_run("bucket_s", ',bucket="waiting"'): "0+60x120",
    }


@dataclass(frozen=True)
class Case:
    """What makes an alert fire at a minute, what does not, and what it then says of whom."""

    name: str
    minute: int
    fires: Series
    calm: tuple[Series, ...]
    says: str
    labels: dict[str, str]


QUEUE = "ray_orchestrator_queue_"
CASES = [
    Case(
        "NoStep", 20,
        {of_run("last_step_unix_s"): "0x120", **held(8)},
        (
            {of_run("last_step_unix_s"): "0+60x120", **held(8)},
            {of_run("last_step_unix_s"): "0x120", **held(0)},
        ),
        "Run night holds accelerators, and has done no step for 20m 0s",
        RUN,
    ),
    Case(
        "GoodputLow", 60, buckets(30, 30), (buckets(59, 1), buckets(0, 0)),
        "Run night: 50% of what it held in the last hour trained", RUN,
    ),
    Case(
        "CostRateHigh", 10,
        {'ray_orchestrator_cost_usd_per_hour{run="a"}': "600x20", 'ray_orchestrator_cost_usd_per_hour{run="b"}': "650x20"},
        (
            {'ray_orchestrator_cost_usd_per_hour{run="a",WorkerId="1"}': "600x20", 'ray_orchestrator_cost_usd_per_hour{run="a",WorkerId="2"}': "600x20"},
        ),
        "All runs together cost $1250 an hour", {},
    ),
    Case(
        "BudgetMostlySpent", 5, {of_run("budget_share", ',cap="budget.usd"'): "0.85x20"},
        ({of_run("budget_share", ',cap="budget.usd"'): "0.7x20"},),
        "Run night has spent 85% of its budget.usd", {**RUN, "cap": "budget.usd"},
    ),
    Case(
        "RestartsOften", 60, {of_run("restarts"): "0x20 1x9 2x9 3x30"}, ({of_run("restarts"): "0x20 1x50"},),
        "Run night was restarted 3 times in the last hour", RUN,
    ),
    Case(
        "NodeAvoided", 5, {of_run("nodes_avoided"): "1x20"}, ({of_run("nodes_avoided"): "0x20"},),
        "Run night takes no more GPUs of 1 nodes", RUN,
    ),
    Case(
        "StragglerNamed", 15, {of_run("stragglers"): "2x20"}, ({of_run("stragglers"): "0x20"}, {of_run("stragglers"): "0x10 1x10"}),
        "Run night waits for 2 of its ranks", RUN,
    ),
    Case(
        "JobsWaitLong", 5, {f"{QUEUE}longest_wait_s": "90000x20"}, ({f"{QUEUE}longest_wait_s": "0+60x20"},),
        "A job of the queue has waited for 1d 1h 0m 0s", {},
    ),
    Case(
        "TeamBudgetMostlySpent", 5,
        {f'{QUEUE}month_usd{{team="nlp"}}': "900x20", f'{QUEUE}month_limit_usd{{team="nlp"}}': "1000x20"},
        (
            {f'{QUEUE}month_usd{{team="nlp"}}': "500x20", f'{QUEUE}month_limit_usd{{team="nlp"}}': "1000x20"},
            {f'{QUEUE}month_usd{{team="nlp"}}': "500x20"},
        ),
        "Team nlp has spent 90% of what it may in a month", {"team": "nlp"},
    ),
    Case(
        "NodesDown", 15, {f'{QUEUE}nodes{{pool="h100",state="down"}}': "2x20"},
        (
            {f'{QUEUE}nodes{{pool="h100",state="up"}}': "2x20", f'{QUEUE}nodes{{pool="h100",state="down"}}': "0x20"},
        ),
        "Pool h100: 2 nodes are down", {"pool": "h100", "state": "down"},
    ),
    Case(
        "QueueSilent", 19, {f'{QUEUE}jobs{{team="a",state="queued"}}': "1x10"},
        ({f'{QUEUE}jobs{{team="a",state="queued"}}': "1x30"}, {f"{QUEUE}of_nobody": "1x30"}),
        "Nobody tells how the queue stands: its daemon or its Ray does not run", {},
    ),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With what is shipped."""
    for path in generate_examples.MONITORING.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def promtool(folder: Path, *words: str) -> str:
    command = [program("promtool", "prometheus"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def played(case: Case, series: Series, fires: bool) -> dict[str, Any]:
    (alert,) = [one for one in alerts(MonitoringConfig()) if one.name == case.name]
    expected = {
        "exp_labels": {**case.labels, "severity": alert.severity},
        "exp_annotations": {
            "summary": case.says,
            "description": alert.then.replace("{{ $labels.run }}", case.labels.get("run", "")),
        },
    }
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{case.minute}m",
                "alertname": case.name,
                "exp_alerts": [expected] if fires else [],
            }
        ],
    }


def test_every_alert_is_played() -> None:
    assert [case.name for case in CASES] == [alert.name for alert in alerts(MonitoringConfig())]


def test_what_is_shipped_is_taken_by_prometheus(folder: Path) -> None:
    (folder / TOKEN).write_text("token")
    said = promtool(folder, "check", "config", PROMETHEUS)
    assert f"{len(CASES)} rules found" in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, folder: Path) -> None:
    tests = [played(case, case.fires, True), *[played(case, series, False) for series in case.calm]]
    body = {"rule_files": [RULES], "evaluation_interval": "1m", "tests": tests}
    (folder / "played.yml").write_text(yaml.safe_dump(body))
    promtool(folder, "test", "rules", "played.yml")
