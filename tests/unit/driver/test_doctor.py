"""What is said of a machine, and what is wrong with it: the very refusals that a run would meet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.agent import facts
from orchestrator.cli import cli
from orchestrator.driver import doctor
from orchestrator.driver.doctor import PACKAGES, Finding, examine

CPU = ("gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and a home with no token and no cluster on record."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def found(*words: str) -> dict[str, Finding]:
    return {one.subject: one for one in examine(orc.compose(*CPU, *words))}


def wrong(*words: str) -> dict[str, str]:
    return {subject: one.wrong for subject, one in found(*words).items() if one.wrong}


def test_nothing_is_wrong_with_a_machine_that_trains(machine: Path) -> None:
    assert wrong() == {}
    said = found()
    assert all(one.seen for one in said.values())
    assert f"torch {facts.package_version('torch')}" in said["packages"].seen
    assert "none is sent" in said["telemetry"].seen
    assert "starts here" in said["cluster"].seen


def test_what_a_run_would_be_refused_for_is_wrong(machine: Path) -> None:
    assert wrong("snapshot.dirs=[/no/such]")["staging"].startswith("snapshot.dirs=[/no/such]: no folder that")
    assert wrong("cluster.nodes=2")["cluster"].startswith("cluster.nodes=2: needs ray_address=host:port")
    assert "s3://" in wrong("job.checkpoint_dir=s3://bucket/x")["checkpoints"]
    assert (
        "does not answer"
        in wrong("tracking.uri=http://127.0.0.1:9", "tracking.connect_timeout_s=0.5")["MLflow"]
    )
    assert "this machine shows no GPU" in wrong("gpu=h100_sxm")["GPU drivers"]


def test_a_token_that_others_may_read(machine: Path) -> None:
    token = machine / "home" / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    assert f"type 'chmod 600 {token}'" in wrong()["token"]
    token.chmod(0o600)
    assert found()["token"].seen == f"in {token}, for you alone"


def test_a_full_disk_a_wrong_clock_and_a_missing_package(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "room_bytes", lambda _folder: 1000)
    monkeypatch.setattr(doctor.time, "time", lambda: 1.8e9 + 3600)
    monkeypatch.setattr(
        doctor.facts, "package_version", lambda name: "not installed" if name == "ray" else "1"
    )
    seen = wrong()
    assert "make room, or write run_root=… of another disk" in seen["run root"]
    assert "set both by the same time server" in seen["clock"]
    assert seen["packages"].startswith("ray: not installed")


def test_values_of_variables_are_not_told(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2hunter2")
    said = found()["shell"].seen
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "hunter2" not in said


def test_on_the_command_line(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *CPU]) == 0
    assert "nothing is wrong here" in capsys.readouterr().out
    assert cli.main(["doctor", *CPU, "snapshot.dirs=[/no/such]"]) == 1
    told = capsys.readouterr().out
    assert "wrong here: staging" in told
    assert cli.main(["--version"]) == 0
    version = capsys.readouterr().out
    assert version.splitlines()[0] == f"orchestrator {orc.__version__}"
    assert all(name in version for name in (*PACKAGES, "commit", "Python", "GPU"))
    assert not os.path.exists("runs")
