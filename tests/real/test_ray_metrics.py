"""The gauges leave through Ray's own metrics export."""

from __future__ import annotations

import time
import urllib.request

import pytest

from orchestrator.cluster.gauges import Gauges
from orchestrator.events import Record, ResourcesGranted, RunStarted, StepDone
from orchestrator.ledger.meter import Meter


@pytest.mark.real
def test_gauges_are_in_rays_metrics_export() -> None:
    import ray

    from orchestrator.cluster.session import connect

    events = [
        RunStarted("night", "job", "lab", "GPU", 2, 2.5),
        ResourcesGranted(["n"], 2),
        StepDone(1, 1, 0.5, 3.25),
    ]
    with connect(None, cpus=2, dashboard=False):
        (node,) = ray.nodes()
        gauges, meter = Gauges("night", "lab"), Meter()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        deadline = time.monotonic() + 60
        exported = ""
        while "ray_orchestrator_loss" not in exported and time.monotonic() < deadline:
            for seq, event in enumerate(events):
                record = Record(seq, float(seq), float(seq), event)
                meter.fold(record)
                gauges.observe(record, meter.bill())
            time.sleep(1)
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    exported = answer.read().decode()
            except OSError:
                continue
    lines = [line for line in exported.splitlines() if line.startswith("ray_orchestrator_loss{")]
    assert lines, "no loss among the exported metrics"
    assert 'run="night"' in lines[0].replace("Run", "run")
    assert 'cluster="lab"' in lines[0]
    assert float(lines[0].rsplit(" ", 1)[1]) == 3.25
