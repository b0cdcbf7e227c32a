"""A run that is asked to stop, by keys and signals, and one whose driver is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pexpect
import psutil
import pytest

from orchestrator.events import (
    CheckpointSaved,
    MetricLogged,
    RunEnded,
    Status,
)
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from tests.real.conftest import CPU
from tests.support.typed_runs import OWN_SCRIPT, SHORT, TIMEOUT_S, Done, Launch, wait_for_step

pytestmark = pytest.mark.real


def test_ctrl_c_saves_stops_and_leaves_nothing(folder: Path, environment: dict[str, str]) -> None:
    screen: list[str] = []
    args = ["-m", "orchestrator", *SHORT, "job.steps=500", "run_name=interrupted"]
    child = pexpect.spawn(
        sys.executable,
        args,
        cwd=str(folder),
        env=environment,
        dimensions=(40, 140),
        timeout=TIMEOUT_S,
        encoding="utf-8",
    )
    try:
        reader = threading.Thread(target=lambda: screen.append(child.read()))
        reader.start()  # a terminal that nobody reads would fill up and block the run
        wait_for_step(folder / "runs/interrupted/journal.jsonl", 10)
        child.sendintr()
        reader.join(TIMEOUT_S)
        child.wait()
    finally:
        child.close(force=True)
    (shown,) = screen
    assert child.exitstatus == 130, shown
    assert "core-hours" in shown
    assert "Traceback" not in shown
    done = Done("interrupted", 130, shown, folder)
    ended = done.events()[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.INTERRUPTED
    last_step = max(done.losses())
    assert done.of(CheckpointSaved)[-1].step == last_step, "the job saved where it stopped"
    assert (folder / "runs/interrupted/checkpoints/latest").read_text() == f"step-{last_step:06d}"
    assert "python -m orchestrator resume interrupted" in shown
    goes_on_with_more_steps_and_no_incident(done, environment, last_step + 3)
    deadline = time.monotonic() + 60
    while leftovers(environment["HOME"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(environment["HOME"]) == [], "no process is left"


def goes_on_with_more_steps_and_no_incident(done: Done, environment: dict[str, str], steps: int) -> None:
    """The command that was shown, with another number of steps, which the script's own argument follows."""
    resume = [sys.executable, "-m", "orchestrator", "resume", done.name]
    called = {"cwd": done.folder, "env": environment, "capture_output": True, "text": True}
    again = subprocess.run([*resume, f"job.steps={steps}"], **called, timeout=TIMEOUT_S)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"taken up again with job.steps={steps}" in again.stdout
    assert max(done.losses()) == steps
    ledger = Ledger().fold_all(replay(done.folder / f"runs/{done.name}/journal.jsonl"))
    assert ledger.incidents() == []
    assert ledger.bill().restarts == 0


OURS = ("orchestrator rank", "orchestrator zygote", "ray::", "gcs_server", "raylet", "mlflow.sink")


def leftovers(home: str) -> list[str]:
    """Processes of orchestrator and Ray that belong to runs with this home directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if any(word in command for word in OURS):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == home:
                    found.append(command[:80])
    return found


@pytest.fixture(scope="module")
def deaf(folder: Path) -> Path:
    """A script that ignores SIGTERM and says when it does."""
    script = folder / "deaf.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'print(\'{"step": 1, "ready": 1}\', flush=True)\ntime.sleep(600)\n'
    )
    return script


def wait_until_ready(journal: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if journal.exists() and any(isinstance(r.event, MetricLogged) for r in replay(journal)):
            return
        time.sleep(0.05)
    raise AssertionError("the script did not start")


def test_sigterm_is_a_stop_too_and_a_deaf_job_is_killed(launch: Launch, deaf: Path) -> None:
    def terminate(pid: int, journal: Path) -> None:
        wait_until_ready(journal)
        os.killpg(pid, signal.SIGTERM)  # the whole process group, as `timeout` and containers do

    done = launch("deaf", *OWN_SCRIPT, f"job.script={deaf}", "recovery.stop_grace_s=1", meanwhile=terminate)
    assert done.code == 143, done.text
    assert "stopped by SIGTERM" in done.text


def test_a_second_ctrl_c_does_not_wait(launch: Launch, deaf: Path, kept: dict[str, str]) -> None:
    asked_s: list[float] = []

    def interrupt_twice(pid: int, journal: Path) -> None:
        wait_until_ready(journal)
        os.kill(pid, signal.SIGINT)
        time.sleep(1)
        os.kill(pid, signal.SIGINT)
        asked_s.append(time.monotonic())

    words = [*OWN_SCRIPT, f"job.script={deaf}", "recovery.stop_grace_s=120"]
    done = launch("impatient", *words, meanwhile=interrupt_twice, env=kept)
    assert done.code == 130, done.text
    assert time.monotonic() - asked_s[0] < 60, "far less than the grace period"
    assert done.events()[-1] == RunEnded(Status.INTERRUPTED, "stopped by Ctrl-C; no checkpoint")


def test_a_killed_driver_takes_everything_along(
    launch: Launch, deaf: Path, environment: dict[str, str]
) -> None:
    def kill(pid: int, journal: Path) -> None:
        wait_until_ready(journal)
        os.kill(pid, signal.SIGKILL)

    done = launch("orphan", *CPU, "job=script", f"job.script={deaf}", meanwhile=kill)
    assert done.code == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while leftovers(environment["HOME"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert leftovers(environment["HOME"]) == []
