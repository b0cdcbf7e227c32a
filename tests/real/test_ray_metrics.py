"""The gauges leave through Ray's own metrics export: a run's by its driver, the queue's by the process that asks
Ray for nodes on the daemon's behalf."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.gauges import Gauges
from orchestrator.dispatch.nodes_reader import NodesReader
from orchestrator.dispatch.queue_gauges import write_gauges
from orchestrator.events import Record, ResourcesGranted, RunStarted, StepDone
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.monitoring.figures import Figures
from orchestrator.ledger.monitoring.gauges import Series

EVENTS = [
    RunStarted("night", "job", "lab", "GPU", 2, 2.5),
    ResourcesGranted(["n"], 2),
    StepDone(1, 1, 0.5, 3.25),
]
QUEUED = {Series("orchestrator_queue_jobs", ("nlp", "queued")): 7.0}
OF_A_RUN, OF_THE_QUEUE = "ray_orchestrator_loss{", "ray_orchestrator_queue_jobs{"


def lines_of(exported: str, name: str) -> list[str]:
    return [line for line in exported.splitlines() if line.startswith(name)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the node's export says as soon as it has both."""
    import ray

    from orchestrator.cluster.session import connect

    state_dir = tmp_path_factory.mktemp("queue")
    with connect(None, cpus=2, dashboard=False) as session:
        reader = NodesReader(session.address, state_dir=state_dir)
        try:
            yield _both(ray.nodes()[0], reader, state_dir)
        finally:
            reader.close()


def _both(node: dict[str, object], reader: NodesReader, state_dir: Path) -> str:
    gauges = Gauges("night", "lab", Figures(ledger := Ledger()))
    records = [Record(seq, float(seq), float(seq), event) for seq, event in enumerate(EVENTS)]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, said = time.monotonic() + 120, ""
    with gauges.kept():
        for record in records:
            ledger.fold(record)
            gauges.observe(record, ledger.bill())
        while not (OF_A_RUN in said and OF_THE_QUEUE in said) and time.monotonic() < deadline:
            reader.nodes()
            write_gauges(state_dir, QUEUED, time.time())
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    said = answer.read().decode()
            except OSError:
                continue
    return said


@pytest.mark.real
def test_a_run_s_gauges_are_in_rays_metrics_export(exported: str) -> None:
    lines = lines_of(exported, OF_A_RUN)
    assert lines, "no loss among the exported metrics"
    assert 'run="night"' in lines[0]
    assert 'cluster="lab"' in lines[0]
    assert float(lines[0].rsplit(" ", 1)[1]) == 3.25


@pytest.mark.real
def test_the_queue_s_gauges_are_there_as_the_daemon_wrote_them(exported: str) -> None:
    lines = lines_of(exported, OF_THE_QUEUE)
    assert lines, "no jobs among the exported metrics"
    assert 'team="nlp"' in lines[0]
    assert 'state="queued"' in lines[0]
    assert float(lines[0].rsplit(" ", 1)[1]) == 7.0
