"""What a check leaves for later runs, what a run leaves, and the verb that shows and forgives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.check.findings import Finding, Grave
from orchestrator.check.reports import What
from orchestrator.cli import cli
from orchestrator.driver.check import CheckSeen
from orchestrator.driver.node_notes import RunNotes, remember_check
from orchestrator.events import Fault, NodeQuarantined, RankLost, Record
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.node_notes import avoided, histories
from tests.support.played_runs import RUN

SLOW = Finding("b", What.MATMUL, Grave.BAD, 400e12, 792e12, "the best", gpu=3)
LINK = Finding("c – d", What.EXCHANGE, Grave.BAD, 1e8, 1e9, "the fabric", link="c – d")


def seen(*findings: Finding) -> CheckSeen:
    return CheckSeen("x:1", ["a", "b", "c", "d"], [], 9.0, 2, None, "", None, list(findings), [])


def test_a_check_marks_the_bad_and_the_well_and_suspects_both_ends_of_a_link(tmp_path: Path) -> None:
    remember_check(str(tmp_path), seen(SLOW, LINK), pytest.fail)
    assert avoided(tmp_path) == {"b": "matrix products: GPU 3: 400 TFLOP/s, expected 792 TFLOP/s"}
    kinds = {node: [note.effect for note in one.notes] for node, one in histories(tmp_path).items()}
    assert kinds == {"a": ["well"], "b": ["bad"], "c": ["odd", "well"], "d": ["odd", "well"]}
    remember_check(str(tmp_path), seen(), pytest.fail)
    assert avoided(tmp_path) == {}


def test_a_run_root_that_cannot_be_written_is_said_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    remember_check(str(tmp_path / "file"), seen(SLOW), said.append)
    assert "what was found of nodes is not remembered" in said[0]


def test_a_node_that_a_run_lost_is_remembered_and_not_avoided(tmp_path: Path) -> None:
    notes, bill = RunNotes(str(tmp_path), pytest.fail), Bill.__new__(Bill)
    lost = RankLost(1, 0, "a", "the whole node", -9, 5, "lost", error="its agent died", fault=Fault.NODE)
    own = RankLost(1, 0, "b", "GPU 1", 1, 5, "exited", fault=Fault.EXIT)
    for seq, event in enumerate([RUN, lost, own, NodeQuarantined("c", "rank 1 outlived SIGKILL")]):
        notes.observe(Record(seq, 1.0, 100.0 + seq, event), bill)
    found = {
        node: (one.notes[0].by, one.notes[0].detail, one.avoided) for node, one in histories(tmp_path).items()
    }
    assert found == {
        "c": ("night-1", "rank 1 outlived SIGKILL", False),
        "a": ("night-1", "its agent died", False),
    }


def test_the_verb_shows_why_and_forgives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = f"run_root={tmp_path}"
    assert cli.main(["nodes", root]) == 0
    assert "nothing is known of nodes" in capsys.readouterr().out
    remember_check(str(tmp_path), seen(SLOW), pytest.fail)
    assert cli.main(["nodes", root]) == 0
    assert "b  avoided  matrix products: GPU 3: 400 TFLOP/s" in capsys.readouterr().out
    assert cli.main(["nodes", root, "--forgive", "bb"]) == 2
    assert "--forgive bb: nothing is known of such a node; did you mean 'b'?" in capsys.readouterr().err
    assert cli.main(["nodes", root, "--forgive", "b"]) == 0
    assert capsys.readouterr().out == "b is used again\n"
    assert cli.main(["nodes", root, "--json"]) == 0
    assert {one["node"]: one["avoided"] for one in json.loads(capsys.readouterr().out)}["b"] is False
