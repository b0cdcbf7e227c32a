"""A check of a node by itself: taken by one check at a time, and what cannot be measured is said."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from orchestrator.agent.check import node_check
from orchestrator.agent.check.node_check import Asked, NodeCheck
from orchestrator.agent.check.programs import ProgramError
from orchestrator.check.reports import What, decode

ASKED = Asked(gpu=True, seconds=0.01, folder="/", staging="/", timeout_s=1.0)


@pytest.fixture(autouse=True)
def _own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_two_checks_do_not_take_one_node() -> None:
    first, second = NodeCheck(ASKED, "127.0.0.1"), NodeCheck(ASKED, "127.0.0.1")
    assert first.hold() == ""
    assert second.hold() == f"process {os.getpid()}"
    second.close()
    first.close()
    third = NodeCheck(ASKED, "127.0.0.1")
    assert third.hold() == ""
    third.close()


def test_a_lock_that_somebody_else_has_made_is_named(tmp_path: Path) -> None:
    (tmp_path / f"orchestrator-check-{os.geteuid()}").symlink_to("elsewhere")
    assert f"whoever made {tmp_path}" in NodeCheck(ASKED, "127.0.0.1").hold()


def test_what_could_not_be_measured_is_in_the_report_with_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unwritable(*_: object) -> list[object]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(node_check.storage, "disk", unwritable)
    monkeypatch.setattr(node_check, "local_gpus", tuple)
    monkeypatch.setattr(node_check.storage, "shared_memory", lambda *_: [])
    checked = NodeCheck(ASKED, "127.0.0.1")
    report = decode(checked.measure())
    failed = dict(report.failed)
    assert "Permission denied" in failed[What.DISK]
    assert "no GPU is visible here" in failed[What.MATMUL]
    assert report.of(What.THROTTLED)
    assert report.facts["package torch"]
    assert checked.exchange(["all_gather", "1", "127.0.0.1", 1, 0, 2]) == 0.0, "the others wait for nobody"


def test_a_process_that_cannot_be_started_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "local_gpus", tuple)
    with pytest.raises(ProgramError, match="no GPU is visible"):
        NodeCheck(ASKED, "127.0.0.1")._computed({})
