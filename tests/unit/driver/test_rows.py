"""Runs side by side from their own directories, as the table has them with which a sweep ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from orchestrator.driver.rows import rows_of
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from tests.support.folders import KEPT

NIGHT = next(KEPT.glob("*/night"))


def test_rows_are_the_bills_with_what_differs(tmp_path: Path) -> None:
    for name, steps in (("first", 50), ("second", 90)):
        shutil.copytree(NIGHT, tmp_path / name)
        paper = json.loads((NIGHT / "tracking.json").read_text())
        paper["params"] |= {"job.steps": steps, "run_name": name}
        (tmp_path / name / "tracking.json").write_text(json.dumps(paper))
    rows = rows_of([tmp_path / "first", tmp_path / "second"])
    bill = Ledger().fold_all(replay(NIGHT / "journal.jsonl")).bill()
    for row, steps in zip(rows, ("50", "90"), strict=True):
        assert row.settings == {"job.steps": steps}
        assert (row.cost_usd, row.restarts, row.goodput) == (bill.cost_usd, bill.restarts, bill.goodput)
        assert row.status in ("finished", "failed", "interrupted", "unknown")
        assert row.started_at is not None


def test_what_has_not_begun_is_no_row_and_a_missing_paper_no_matter(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "journal.jsonl").touch()
    shutil.copytree(NIGHT, tmp_path / "bare")
    (tmp_path / "bare" / "tracking.json").unlink()
    (row,) = rows_of([tmp_path / "empty", tmp_path / "bare"])
    assert row.settings == {}
