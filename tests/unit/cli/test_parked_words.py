"""How people are told of what lies parked in memory, and that a run went on from it."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from orchestrator.cli.show.cluster_status import show_status
from orchestrator.driver.cluster_status import ClusterSeen
from orchestrator.events import AttemptStarted, Record, RestoreSource
from orchestrator.ledger.incident import restored_in_words
from orchestrator.ledger.story import Story

PARKED = {
    "run": "big",
    "run_dir": "/runs/big",
    "ranks": [0, 1],
    "bytes": 4.4e9,
    "in_use": False,
    "left_s": 3587.0,
}


def status(*parked: dict[str, Any]) -> str:
    node = {
        "host": "n0", "address": "10.0.0.1", "gpus": 0.0, "held_gpus": 0.0, "cpus": 2.0, "held_cpus": 0.0,
        "zygotes": [], "parked": list(parked),
    }  # fmt: skip
    seen = {
        "address": "10.0.0.1:6379", "dashboard_url": None, "kept": True, "started_by_up": True,
        "since_unix_s": None, "idle_timeout_s": 1800.0, "nodes": [node], "runs": [], "ended_runs": [],
        "cost_usd": 0.0,
    }  # fmt: skip
    text = io.StringIO()
    show_status(cast(ClusterSeen, seen), Console(file=text, width=140))
    return text.getvalue()


def test_status_says_what_runs_that_have_left_could_go_on_from() -> None:
    line = "on n0 big has left 4.4 GB in memory, to go on from within 0:59:47\n"
    assert line in status(PARKED, {**PARKED, "run": "live", "in_use": True, "left_s": None})
    assert "live" not in status({**PARKED, "run": "live", "in_use": True, "left_s": None})
    assert "in memory" not in status()


@pytest.mark.parametrize(
    ("source", "story", "incident"),
    [
        (RestoreSource.MEMORY, "in memory", "memory"),
        ("parked", "in memory parked on the node", "memory parked on the node"),
        (RestoreSource.DISK, "on disk", "disk"),
        (None, "on disk", "disk"),
    ],
)
def test_a_run_says_from_where_it_goes_on(source: str | None, story: str, incident: str) -> None:
    started = AttemptStarted(2, "10.0.0.1", 29500, 4, 8, source)
    (line,) = Story(None).lines(Record(1, 2.0, 3.0, started))
    assert line.text.endswith(f", from step 8 {story}")
    assert restored_in_words(started) == f"restored step 8 from {incident}"
