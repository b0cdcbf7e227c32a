"""Runs as a typed table, and bills and tables as a notebook shows them."""

from __future__ import annotations

import re
from html import unescape

import pytest

import orchestrator as orc
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow import run_table
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import usd
from tests.support.folders import KEPT


def row(name: str, **values: object) -> RunRow:
    plain = dict.fromkeys(RunRow.__dataclass_fields__) | {"settings": {}, "bucket_usd": {}}
    return RunRow(**{**plain, "run_id": name, "name": name, "status": "finished", **values})  # type: ignore[arg-type]


def test_a_table_is_a_sequence_of_rows() -> None:
    table = orc.RunTable((row("a"), row("b"), row("c")))
    assert (len(table), table[1].name, [one.name for one in table], table[1:].rows[0].name) == (
        3,
        "b",
        ["a", "b", "c"],
        "b",
    )


def test_runs_are_chosen_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []

    def load(uri: str, experiment: str, limit: int, keep: object, filter_string: str) -> list[RunRow]:
        asked.append((uri, experiment, limit))
        rows = [
            row("a", cost_usd=2.0, job="x"),
            row("b", cost_usd=1.0, job="y"),
            row("c", status="failed", job="x"),
        ]
        return [one for one in rows if keep is None or keep(one)]  # type: ignore[operator]

    monkeypatch.setattr(run_table, "load_runs", load)
    assert [one.name for one in orc.runs("exp", uri="sqlite:///x.db", sort="cost_usd", limit=7)] == [
        "b",
        "a",
        "c",
    ]
    assert asked == [("sqlite:///x.db", "exp", 7)]
    assert [one.name for one in orc.runs("exp", uri="sqlite:///x.db", job="x", status="finished")] == ["a"]
    orc.runs()
    tracking = orc.compose().tracking
    assert asked[-1] == (tracking.uri, tracking.experiment, 100)


def page_of(thing: object) -> str:
    page: str = thing._repr_html_()  # type: ignore[attr-defined]
    assert not re.search(r"https?:|<script|<link|<img|color", page)
    return page


def test_a_notebook_shows_the_best_of_the_finished_ones_and_no_markup_of_others() -> None:
    page = page_of(orc.RunTable((row("<b>one</b>", cost_usd=2.0), row("two", cost_usd=1.0))))
    assert "<b>" not in page
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert ("$1.00*" in page, "$2.00*" in page) == (True, False)


def test_a_notebook_shows_a_bill_of_nothing_and_of_a_run() -> None:
    assert "Bill" in page_of(Meter().bill())
    night = orc.open_run(KEPT / "0.1.0" / "night", trust=True)
    page = unescape(page_of(night.bill))
    bill: Bill = night.bill
    assert usd(bill.cost_usd) in page
    spent = [bucket.value for bucket, seconds in bill.gpu_seconds.items() if seconds]
    assert spent
    assert all(f">{name}<" in page for name in spent)
