"""Which nodes a run leaves out, by what a check finds and by what was found before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.check.findings import Finding, Grave
from orchestrator.check.reports import What
from orchestrator.cluster import check as on_cluster
from orchestrator.cluster.check import Candidate
from orchestrator.config.schema import Config, Preflight
from orchestrator.driver import preflight_check
from orchestrator.driver.check import CheckSeen
from orchestrator.driver.preflight_check import look_again, nodes_to_leave_out
from orchestrator.errors import ConfigError, NotEnoughResources
from orchestrator.ledger.node_notes import NodeNote, NoteKind, add, avoided

SLOW = Finding("b", What.MATMUL, Grave.BAD, 400e12, 792e12, "the best", gpu=3)
ODD = Finding("c", What.CLOCK, Grave.ODD, 3.0, 1.0, "")
LINK = Finding("a – c", What.EXCHANGE, Grave.BAD, 1e8, 1e9, "the fabric", link="a – c")


class Cluster:
    """Four nodes, of which a run holds the last, and what a check of the others finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, *findings: Finding) -> None:
        self.config = Config(preflight=Preflight.quick, run_root=str(root))
        self.findings, self.measured, self.warned = findings, [], []
        there = [Candidate(name, name, name) for name in "abc"] + [Candidate("d", "d", "d", ("night-1",))]
        monkeypatch.setattr(on_cluster, "candidates", lambda: there)
        monkeypatch.setattr(preflight_check, "check_connected", self.check)

    def check(self, config: Config, full: bool, *_: Any, only: list[str], of_run: str = "") -> CheckSeen:
        assert not full
        self.measured.append(only)
        found = [one for one in self.findings if set(one.nodes) <= set(only)]
        return CheckSeen("x:1", only, [], 9.0, 2, None, "", None, found, [])

    def left_out(self, nodes: int) -> dict[str, str]:
        view: Any = SimpleNamespace(warn=self.warned.append)
        return dict(nodes_to_leave_out(self.config, nodes, "x:1", view))


def test_a_bad_node_is_left_out_and_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = Cluster(monkeypatch, tmp_path, SLOW)
    assert cluster.left_out(2) == {"b": "matrix products, GPU 3: 400 TFLOP/s, expected 792 TFLOP/s"}
    assert cluster.measured == [["a", "b", "c"]]
    assert list(avoided(tmp_path)) == ["b"]


def test_what_is_odd_and_a_link_are_said_and_nobody_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster(monkeypatch, tmp_path, ODD, LINK)
    assert cluster.left_out(3) == {}
    assert [text.split(":")[0] for text in cluster.warned] == ["c", "a – c"]


def test_what_was_found_before_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add(tmp_path, [NodeNote("a", 1.0, NoteKind.BAD, "check", "XID", "79")])
    cluster = Cluster(monkeypatch, tmp_path)
    assert cluster.left_out(2) == {"a": "avoided since an earlier check: XID: 79"}
    assert cluster.measured == [["b", "c"]]


def test_where_too_few_are_well_the_run_is_refused_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        NotEnoughResources, match=r"preflight=quick: 3 nodes are needed and 2 are well \(b: mat"
    ) as said:
        Cluster(monkeypatch, tmp_path, SLOW).left_out(3)
    assert "nodes --forgive b'" in str(said.value)
    assert "preflight=off" in str(said.value)


def test_a_node_of_the_run_itself_is_measured_again_after_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster(monkeypatch, tmp_path, SLOW, ODD)
    there = [Candidate("b", "b", "b", ("orchestrator night-1",)), Candidate("c", "c", "c", ("orchestrator night-1",)),
             Candidate("d", "d", "d", ("orchestrator night-1", "orchestrator night-2"))]  # fmt: skip
    monkeypatch.setattr(on_cluster, "candidates", lambda: there)
    said: list[str] = []
    view: Any = SimpleNamespace(warn=cluster.warned.append, notice=said.append)
    look = look_again(cluster.config, "night-1", "x:1", view)
    assert look is not None
    bad, well = look(1, "b"), look(2, "c", came=True)
    assert bad is not None
    assert well is not None
    assert (bad.attempt, bad.well, bad.found.split(",")[0]) == (1, False, "matrix products")
    assert (well.well, well.found, well.seconds, well.came) == (True, "", 9.0, True)
    assert look(3, "d") is None, "another run would be slowed"
    assert look(3, "gone") is None
    assert not bad.came
    assert said == [
        "node b is checked, since a rank was lost on it",
        "node c is checked, since it has come in place of a lost one",
    ]
    assert cluster.measured == [["b"], ["c"]]
    assert list(avoided(tmp_path)) == ["b"]
    cluster.config.preflight = Preflight.off
    assert look_again(cluster.config, "night-1", "x:1", view) is None


def test_a_check_that_cannot_be_made_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster(monkeypatch, tmp_path)

    def fails(*_: Any, **__: Any) -> CheckSeen:
        raise ConfigError("a check is at work there already")

    monkeypatch.setattr(preflight_check, "check_connected", fails)
    view: Any = SimpleNamespace(warn=cluster.warned.append, notice=lambda text: None)
    look = look_again(cluster.config, "night-1", "x:1", view)
    assert look is not None
    assert look(1, "a") is None
    assert cluster.warned == ["a: was not checked before ranks run there: a check is at work there already"]
