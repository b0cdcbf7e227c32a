"""A real Prometheus beside a run: what its owner would ask it."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from orchestrator.ledger.meter import Meter
from orchestrator.ledger.monitoring.gauges import RUN_GAUGES
from tests.faults.runs import MARKS, Run, User
from tests.services.needs import program
from tests.services.processes import Service
from tests.support.ports import free_port

pytestmark = MARKS

# The file by which Ray says where its metrics are; Prometheus looks into it by itself.
CONFIGURATION = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: ray
    file_sd_configs:
      - files: ["{session}/prom_metrics_service_discovery.json"]
        refresh_interval: 1s
"""
# Those of the bill that every step sets; `restarts` stays as it is in a run without faults.
CHANGING = [
    f"orchestrator_{figure}"
    for figure in ("step", "loss", "tokens_per_s", "mfu", "goodput", "gpu_hours", "cost_usd")
]
PLAIN = [gauge.name for gauge in RUN_GAUGES if not gauge.more]
FIELDS = {"orchestrator_loss": "final_loss"}  # of the bill, where it is called otherwise
ENOUGH = 10  # samples
LATE_S = 30.0  # what a gauge may be behind the journal, on a busy machine
AHEAD_S = 2.0  # a sample has the time at which it was asked for, and what is answered may be newer
EXACTLY = 1e-5  # so exactly the journal keeps the time, from which the rest follows


class Prometheus:
    """Leads its life by a configuration, whose own paths are from the folder on."""

    def __init__(self, folder: Path, configuration: str) -> None:
        (folder / "prometheus.yml").write_text(configuration)
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        words += [f"--web.listen-address=127.0.0.1:{port}"]
        self.service = Service([program("prometheus", "prometheus"), *words], folder)

    def start(self) -> None:
        """Wait until it answers."""
        self.service.until(lambda: self.get("/-/ready") is not None)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series of a PromQL query."""
        said = self.get(f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        assert said is not None, query
        answer = json.loads(said)
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def get(self, path: str) -> str | None:
        """What it answers; None where it does not, or refuses."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return str(answer.read().decode())
        except (urllib.error.HTTPError, OSError):
            return None


@dataclass
class Watched:
    """A run, and all that Prometheus has of it: a series for each gauge, of (seconds, value)."""

    run: Run
    labels: dict[str, dict[str, str]]
    samples: dict[str, list[tuple[float, float]]]
    cost_by_run: list[dict[str, Any]]
    job: dict[str, Any]  # as Ray's dashboard has it


def job_of(keeper: User, run: str) -> dict[str, Any]:
    """What Ray's dashboard says of a run."""
    assert keeper.kept is not None
    assert keeper.kept.dashboard_url is not None
    token = (keeper.folder / "home" / ".ray" / "auth_token").read_text().strip()
    url = f"{keeper.kept.dashboard_url.rstrip('/')}/api/jobs/"
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        jobs: list[dict[str, Any]] = json.loads(answer.read())
    (found,) = [job for job in jobs if (job["metadata"] or {}).get("run") == run]
    return found


@pytest.fixture(scope="module")
def watched(keeper: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A run that goes on until Prometheus has seen enough of it, and is stopped then."""
    assert keeper.kept is not None
    assert keeper.kept.session_dir is not None
    configuration = CONFIGURATION.format(session=keeper.kept.session_dir)
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), configuration)
    run = keeper.start("watched", "job.steps=100000", "job.args.checkpoint_every=0")
    try:
        prometheus.start()

        def enough(name: str) -> bool:
            found = prometheus.ask(f'count_over_time(ray_{name}{{run="watched"}}[10m])')
            return len(found) == 1 and float(found[0]["value"][1]) >= ENOUGH

        prometheus.service.until(lambda: all(map(enough, CHANGING)))
        series = {name: prometheus.ask(f'ray_{name}{{run="watched"}}[10m]') for name in PLAIN}
        cost = prometheus.ask("sum by (run, cluster) (ray_orchestrator_cost_usd)")
        job = job_of(keeper, "watched")
        run.tell(SIGTERM)
        run.ended()
        assert run.code == 143, run.text
        labels = {name: one["metric"] for name, found in series.items() for one in found}
        samples = {
            name: [(float(at), float(value)) for at, value in one["values"]]
            for name, found in series.items()
            for one in found
        }
        yield Watched(run, labels, samples, cost, job)
    finally:
        run.kill()
        prometheus.service.close()


def test_prometheus_has_a_run_s_gauges_with_its_labels_and_the_journal_s_values(watched: Watched) -> None:
    meter, told = Meter(), []
    for record in watched.run.records():
        meter.fold(record)
        told.append((record.time_unix_s, meter.bill()))
    for name in CHANGING:
        assert (watched.labels[name]["run"], watched.labels[name]["cluster"]) == ("watched", "local")
        field = FIELDS.get(name, name.removeprefix("orchestrator_"))
        for at, value in watched.samples[name]:
            then = [getattr(bill, field) for time_s, bill in told if at - LATE_S <= time_s <= at + AHEAD_S]
            known = any(was is not None and math.isclose(was, value, rel_tol=EXACTLY) for was in then)
            assert known, (name, at, value)
    steps = [value for _, value in watched.samples["orchestrator_step"]]
    assert steps == sorted(steps)
    assert steps[-1] > steps[0], "it goes on"


def test_what_runs_cost_can_be_summed(watched: Watched) -> None:
    (one,) = watched.cost_by_run
    assert one["metric"] == {"run": "watched", "cluster": "local"}
    assert 0 < float(one["value"][1]) <= Meter().fold_all(watched.run.records()).bill().cost_usd


def test_a_gauge_that_does_not_change_stays(watched: Watched) -> None:
    """Ray forgets one that is not set again within two report intervals."""
    last_s = max(at for at, _ in watched.samples["orchestrator_step"])
    restarts = [value for at, value in watched.samples.get("orchestrator_restarts", []) if at > last_s - 5]
    assert restarts, "none of the last five seconds"
    assert set(restarts) == {0.0}


def test_ray_s_dashboard_says_which_run_a_job_is(watched: Watched) -> None:
    assert watched.job["status"] == "RUNNING"
    about = watched.job["metadata"]
    assert (about["run"], about["cluster"], about["accelerators"]) == ("watched", "local", "2 × CPU core")
    assert about["run directory"] == str(watched.run.folder)
