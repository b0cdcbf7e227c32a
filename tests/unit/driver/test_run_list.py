"""The runs of a run root: their states, what they cost, and which are wanted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.driver import run_list
from orchestrator.driver.run_list import list_runs
from orchestrator.errors import ConfigError
from orchestrator.events import ResourcesReleased, RunEnded, RunResumed, Status
from orchestrator.ledger.run_directory import RunDirectory
from tests.support.played_runs import BEGIN, PRICE, RUN, Timeline, steps
from tests.unit.cli.test_incidents_shown import run_directory

DONE: Timeline = [
    *BEGIN,
    *steps(1, 1, 9, at=1),
    (10, ResourcesReleased()),
    (10, RunEnded(Status.FINISHED, "")),
]
OPEN: Timeline = [*BEGIN, *steps(1, 1, 3, at=1)]
NOTE = {
    "format": 1, "run": "theirs", "owner": "ada", "project": "lm", "cost_center": None, "unit": "GPU",
    "every_s": 30.0, "state": "running", "gpus_held": 8, "gpu_hours": 12.5, "cost_usd": 40.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """One that has finished, one that goes on, one whose driver is gone, one that is damaged, one that never
    began, and what is none."""
    root = tmp_path / "runs"
    for age_s, (name, timeline) in enumerate(
        {"live": OPEN, "gone": OPEN, "done": DONE, "torn": OPEN, "never": []}.items()
    ):
        path = run_directory(root, name, timeline) / "journal.jsonl"
        if name == "torn":
            path.write_text("no record\n" + path.read_text())
        os.utime(path, (2e9 - age_s, 2e9 - age_s))
    (root / "sweeps").mkdir()
    (root / "mlflow.db").write_text("")
    held = RunDirectory(root / "live")
    held.hold(resume=True)
    yield root
    held.release()


def note(root: Path, name: str, **changes: object) -> None:
    (root / "spend").mkdir(exist_ok=True)
    body = {**NOTE, "run": name, "updated_unix_s": time.time(), **changes}
    (root / "spend" / f"{name}.json").write_text(json.dumps(body))


def test_states_are_those_of_journals_and_drivers_the_newest_first(root: Path) -> None:
    found = list_runs(root)
    assert [(run.name, run.state, run.goes_on) for run in found] == [
        ("live", "training", True),
        ("gone", "lost", False),
        ("done", "finished", False),
        ("torn", "damaged", False),
    ]
    live, gone, done, _ = found
    assert (live.gpus_held, gone.gpus_held, done.gpus_held) == (4, 0, 0)
    assert (live.step, done.step, live.job, live.cluster, live.unit) == (3, 9, "gpt", "lab", "GPU")
    assert done.cost_usd == pytest.approx(10 * 4 / 3600 * PRICE)
    assert done.path == str(root / "done")
    assert [run.name for run in list_runs(root, limit=2)] == ["live", "gone"]
    assert list_runs(root / "absent") == []


def test_a_run_that_was_taken_up_with_other_steps_has_those(root: Path) -> None:
    fewer = RunResumed("fewer", "it was stopped", ["job.steps=9"], steps=9, gpus=4)
    begun: Timeline = [(0, replace(RUN, steps=20)), *OPEN[1:]]
    run_directory(root, "fewer", [*begun, (4, fewer), (5, RunEnded(Status.FINISHED, ""))])
    run_directory(root, "as-it-was", [*begun, (4, RunResumed("as-it-was", "it was stopped"))])
    steps_of = {run.name: run.steps for run in list_runs(root)}
    assert (steps_of["fewer"], steps_of["as-it-was"]) == (9, 20)


def test_what_is_wanted_is_looked_for_before_the_limit(root: Path) -> None:
    def names(limit: int = 100, **wanted: object) -> list[str]:
        return [run.name for run in list_runs(root, limit=limit, **wanted)]  # type: ignore[arg-type]

    note(root, "done", project="lm", owner="ada")
    assert names(states=["running"]) == ["live"]
    assert names(states=["finished", "lost"]) == ["gone", "done"]
    assert names(limit=1, states=["finished"]) == ["done"]
    assert names(owner="ada") == names(project="lm") == ["done"]
    assert names(job="gpt", cluster="lab") == ["live", "gone", "done"]
    assert names(job="bert") == []
    with pytest.raises(ConfigError, match=r"state 'finnished': no run is that; did you mean 'finished'\?"):
        names(states=["finnished"])
    with pytest.raises(ConfigError, match="states='lost': is one text"):
        names(states="lost")


def test_of_others_runs_only_what_they_tell_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_list, "why_not_ours", lambda path: "it is eve's" if path.name == "done" else None)
    assert "done" not in [run.name for run in list_runs(root)]
    assert "done" in [run.name for run in list_runs(root, trust=True)]
    note(root, "done", state="finished", gpus_held=0)
    note(root, "theirs")
    note(root, "silent", updated_unix_s=time.time() - 1e4)
    note(root, "bad", owner=7)
    (root / "spend" / "worse.json").write_text("[")
    found = {run.name: run for run in list_runs(root)}
    assert {"bad", "worse"}.isdisjoint(found)
    assert (found["done"].state, found["done"].cost_usd, found["done"].job) == ("finished", 40.0, None)
    theirs, silent = found["theirs"], found["silent"]
    assert (theirs.state, theirs.goes_on, theirs.gpus_held, theirs.path) == ("running", True, 8, None)
    assert (silent.state, silent.goes_on, silent.gpus_held) == ("lost", False, 0)
    assert [run.name for run in list_runs(root, states=["running"])] == ["live", "theirs"]
