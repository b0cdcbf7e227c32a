"""What is new of a GPU since an attempt began, by a driver and a kernel's log that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.check import evidence, gpu_health
from orchestrator.agent.check.evidence import Evidence
from orchestrator.check.reports import Figure, What
from orchestrator.config.hardware import LocalGpu
from tests.unit.agent.check.test_gpu_health import LOG, driver

TWO = tuple(LocalGpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", 1 << 36) for index in range(2))
LATER = (
    "4,1501,99999999,-;NVRM: Xid (PCI:0000:3b:00): 95, pid='<unknown>', name=<unknown>, Uncontained ECC error"
)
OWN = "4,1502,99999999,-;NVRM: Xid (PCI:0000:3b:00): 13, pid=7, name=python, Graphics Exception"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(evidence, "local_gpus", lambda: TWO)
    monkeypatch.setattr(evidence, "link_downs", list)
    (tmp_path / "kmsg").write_text("\n".join(LOG) + "\n")
    return tmp_path / "kmsg"


def test_what_was_there_before_the_attempt_is_no_evidence(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    driver(monkeypatch, {"nvmlDeviceGetTotalEccErrors": 5}, {})
    seen = Evidence(log)
    assert seen.of(0) == seen.of(1) == {}


def test_new_errors_and_xids_are_those_of_the_ranks_own_gpu(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    driver(monkeypatch, {"nvmlDeviceGetTotalEccErrors": 5}, {})
    seen = Evidence(log)
    driver(monkeypatch, {"nvmlDeviceGetTotalEccErrors": 7}, {})
    log.write_text("\n".join([*LOG, LATER, OWN]) + "\n")
    assert seen.of(0) == {What.ECC: 2.0, What.XID: 95.0, What.PROGRAM_XID: 13.0}
    assert seen.of(1) == {}


def test_a_link_that_went_down_is_evidence_for_all_ranks_of_the_node(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    driver(monkeypatch, {}, {})
    monkeypatch.setattr(evidence, "link_downs", lambda: [Figure(What.LINK_DOWNS, 3.0, device="mlx5_0:1")])
    seen = Evidence(log)
    monkeypatch.setattr(evidence, "link_downs", lambda: [Figure(What.LINK_DOWNS, 5.0, device="mlx5_0:1")])
    assert seen.of(0) == seen.of(1) == {What.LINK_DOWNS: 2.0}


def test_without_gpus_nothing_of_a_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "local_gpus", tuple)
    monkeypatch.setattr(gpu_health, "health", lambda _log: pytest.fail("asked"))
    monkeypatch.setattr(evidence, "link_downs", list)
    assert Evidence(tmp_path / "none").of(0) == {}
