"""A run that is watched, told of and stopped by other processes than its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.errors import EXIT_TERMINATED
from orchestrator.events import StopRequested
from orchestrator.ledger.journal import replay
from orchestrator.ledger.run_directory import LOST
from tests.real.conftest import CPU
from tests.support.receivers import UNTIL_S, http_receiver, until
from tests.support.texts import text_so_far

pytestmark = pytest.mark.real

SECRET = "T0-B0-a-path-that-is-secret"
# Longer than any test waits: it is stopped.
ENDLESS = [
    "model.seq_len=64",
    "job.steps=1000000",
    "job.args.checkpoint_every=1000000",
    "job.args.val_every=1000000",
]


def orchestrator(words: Sequence[str], folder: Path, kept: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=3 * UNTIL_S)
    return process.returncode, out


def test_a_run_is_listed_followed_told_of_and_stopped_from_elsewhere(
    kept: dict[str, str], tmp_path: Path, empty_database: Path
) -> None:
    run_dir = tmp_path / "runs" / "night"
    run_dir.parent.mkdir()
    shutil.copy(empty_database, run_dir.parent / "mlflow.db")
    with http_receiver() as receiver:
        told = [f"notify.webhook.url={receiver.url}/{SECRET}", f"notify.command='cat >> {tmp_path}/told'"]
        driver = orchestrator([*CPU, *ENDLESS, *told, "run_name=night"], tmp_path, kept)
        follower = None
        try:
            until(lambda: (run_dir / "journal.jsonl").exists())
            follower = orchestrator(["logs", "night", "--follow"], tmp_path, kept)
            log = run_dir / "logs" / "attempt-1.rank-0.log"
            until(lambda: "step" in text_so_far(log))
            until(lambda: [run.state for run in orc.list_runs(tmp_path / "runs")] == ["training"])
            code, out = ended(orchestrator(["stop", "night"], tmp_path, kept))
            assert code == 0
            assert "its driver has heard; ranks have" in out
            assert "night interrupted: stopped by 'orchestrator stop' of " in out
            assert "to go on with it: " in out
            code, _ = ended(driver)
            assert code == EXIT_TERMINATED
            code, out = ended(follower)
            assert (code, "step" in out) == (0, True)
        finally:
            for process in (driver, follower):
                if process is not None:
                    process.kill()
                    process.wait()
                    assert process.stdout
                    process.stdout.close()
        assert [posted.body["moment"] for posted in receiver.posted] == ["start", "end"]
        last = receiver.posted[-1].body
    assert [json.loads(line)["moment"] for line in (tmp_path / "told").read_text().splitlines()] == [
        "start",
        "end",
    ]
    assert (last["state"], last["run"], last["step"] > 0) == ("interrupted", "night", True)
    assert "resume night" in last["go_on"]
    (asked,) = [r.event for r in replay(run_dir / "journal.jsonl") if isinstance(r.event, StopRequested)]
    assert asked.by.startswith("'orchestrator stop' of ")
    assert [run.state for run in orc.list_runs(tmp_path / "runs", states=["interrupted"])] == ["interrupted"]
    quoting = [
        path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert quoting == [run_dir / "resume.json"]


def test_a_driver_that_is_killed_is_told_of_with_what_goes_on(kept: dict[str, str], tmp_path: Path) -> None:
    with http_receiver() as receiver:
        told = [f"notify.webhook.url={receiver.url}/x", "tracking.uri=http://127.0.0.1:9"]
        driver = orchestrator([*CPU, *ENDLESS, *told, "run_name=night"], tmp_path, kept)
        try:
            until(lambda: [run.state for run in orc.list_runs(tmp_path / "runs")] == ["training"])
            until(lambda: len(receiver.posted) == 1)
        finally:
            driver.kill()
            ended(driver)
        until(lambda: len(receiver.posted) == 2)
        last = receiver.posted[-1].body
    assert (last["moment"], last["state"]) == ("end", LOST)
    assert "resume night" in last["go_on"]
    assert [run.state for run in orc.list_runs(tmp_path / "runs")] == [LOST]
