"""Runs that an earlier version wrote can be read: journals, run directories, MLflow's runs.

``tests/kept/VERSION`` holds a run of two ranks, one of them killed once, as that version left it, its MLflow
database, and a journal with every event there was. They are never written again: what a later version cannot
read of them is lost for its users.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from orchestrator.driver.folded import Folded
from orchestrator.driver.resume import unfinished
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.run_directory import RESUME
from orchestrator.records import RENAMED_EVENTS, record_from_json, record_to_json
from tests.support.folders import KEPT

KEPT = sorted(KEPT.iterdir())


@pytest.fixture(params=KEPT, ids=lambda folder: folder.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(request.param, tmp_path / "kept")
    return tmp_path / "kept"


def test_every_event_of_then_is_an_event(kept: Path) -> None:
    records = [record_from_json(line) for line in (kept / "every_event.jsonl").read_text().splitlines()]
    assert len({type(record.event) for record in records}) == len(records) >= 30
    folded = Folded()
    for record in records:
        folded.fold(record)
        said = json.loads((kept / "every_event.jsonl").read_text().splitlines()[record.seq])
        said["type"] = RENAMED_EVENTS.get(said["type"], said["type"])
        assert json.loads(record_to_json(record)).items() >= said.items(), "nothing that was said is lost"


def test_a_journal_says_what_the_run_was_and_cost(kept: Path) -> None:
    records = list(replay(kept / "night" / "journal.jsonl"))
    bill = Meter().fold_all(records).bill()
    assert (bill.step, bill.restarts, bill.final_loss is not None) == (8, 1, True)
    (incident,) = Ledger().fold_all(records).incidents()
    before = json.loads((kept / "night" / "incidents.json").read_text())
    (told,) = before["incidents"] if isinstance(before, dict) else before
    assert incident.cost_usd == pytest.approx(told["cost_usd"])
    assert (incident.fault, incident.node, incident.recovered_after_s is not None) == (
        told["fault"],
        told["node"],
        True,
    )


def test_a_run_of_then_that_was_stopped_can_be_taken_up(kept: Path) -> None:
    """Its last record is left out: a driver that was killed had not written it."""
    night = kept / "night"
    lines = (night / "journal.jsonl").read_text().splitlines(keepends=True)
    (night / "journal.jsonl").write_text("".join(lines[:-1]))
    found = unfinished(night)
    assert found is not None
    assert (found.name, found.folded().resume_state.history.highest_step) == ("night", 8)
    from orchestrator.config import load

    config = load.from_container(json.loads((night / RESUME).read_text())["config"])
    assert (config.run_name, config.job.ranks, config.job.args["mode"]) == ("night", 2, "die")


@pytest.mark.real
def test_mlflow_s_run_of_then_is_listed_with_its_cost(kept: Path) -> None:
    from orchestrator.ledger.mlflow.runs import load_runs

    (kept / "mlflow.db").write_bytes(gzip.decompress((kept / "mlflow.db.gz").read_bytes()))
    (row,) = load_runs(f"sqlite:///{kept}/mlflow.db", "orchestrator", 10)
    bill = Meter().fold_all(replay(kept / "night" / "journal.jsonl")).bill()
    assert row.cost_usd == pytest.approx(bill.cost_usd)
    assert (row.name, row.restarts) == ("night", 1)
