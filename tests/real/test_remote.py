"""`remote` against a Ray with a dashboard and a token, as from another machine: the folder is sent, what is
printed and the exit code come back, and Ctrl-C stops what goes on there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cluster.warm.head import AGENT_PORT
from orchestrator.events import CheckpointSaved, RunEnded, Status, StepDone
from orchestrator.ledger.journal import replay
from tests.faults.runs import User
from tests.support.typed_runs import CPU, OWN_SCRIPT, SHORT, TIMEOUT_S, wait_for_step

pytestmark = pytest.mark.real

# In a folder that only the desk has.
SCRIPT = """
import json
print(json.dumps({"step": 1, "told": 1.0}), flush=True)
"""
UNTRACKED = "tracking.uri=http://127.0.0.1:9"
JOB = [*OWN_SCRIPT, "job.script=own.py"]
LONG = [*SHORT, "job.steps=5000", UNTRACKED]


@dataclass
class Desk:
    """A machine that has the project and a token, and no Ray."""

    folder: Path
    address: str
    environment: dict[str, str]

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "remote", self.address, "--python", sys.executable, *words],
            cwd=self.folder, env={**self.environment, **variables}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **variables)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """On a machine where another Ray has the port that Ray's agent takes by default."""
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # there is such a Ray
            other.bind(("127.0.0.1", AGENT_PORT))
            other.listen()
        with User(tmp_path_factory.mktemp("cluster")).keeping(*CPU) as one:
            yield one


@pytest.fixture(scope="module")
def desk(cluster: User, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "own.py").write_text(SCRIPT)
    assert cluster.kept is not None
    (folder / "home").mkdir()
    own = {"HOME": str(folder / "home"), "XDG_STATE_HOME": str(folder / "state")}
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RAY_"))}
    token = Path(cluster.environment["HOME"], ".ray", "auth_token").read_text().strip()
    environment = {**ours, **own, "RAY_AUTH_TOKEN": token}
    return Desk(folder, str(cluster.kept.dashboard_url), environment)


def test_a_run_there_and_the_exit_code_of_what_is_refused_there(desk: Desk, cluster: User) -> None:
    done = desk.run("run", "run_name=there", *JOB)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orchestrator-run-" in done.stderr
    assert "Running entrypoint" not in done.stdout, "Ray's own lines are not ours"
    path = Path(cluster.environment["HOME"], "runs", "there")
    assert [
        record.event.status for record in replay(path / "journal.jsonl") if type(record.event) is RunEnded
    ] == [Status.FINISHED]
    assert not (desk.folder / "runs").exists()
    refused = desk.run("--no-upload", "logs", "nowhere")
    assert (refused.returncode, "no run 'nowhere'" in refused.stdout) == (2, True)


def test_ctrl_c_stops_it_with_time_to_save_and_an_earlier_job_can_be_looked_at(
    desk: Desk, cluster: User
) -> None:
    process = desk.start("run", "run_name=long", *LONG)
    journal = Path(cluster.environment["HOME"], "runs", "long", "journal.jsonl")
    wait_for_step(journal, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143, out + err
    events = [record.event for record in replay(journal)]
    assert [event.status for event in events if isinstance(event, RunEnded)] == [Status.INTERRUPTED]
    last = max(event.step for event in events if isinstance(event, StepDone))
    assert [event.step for event in events if isinstance(event, CheckpointSaved)][-1] == last
    job = next(word for word in err.split() if word.startswith("orchestrator-run-"))
    again = desk.run("--job", job)
    assert (again.returncode, again.stdout) == (143, out)


def test_a_token_that_does_not_fit_is_one_line(desk: Desk) -> None:
    done = desk.run("runs", RAY_AUTH_TOKEN="of-another-cluster")
    assert (done.returncode, done.stdout) == (2, "")
    assert "asks for a token, and this is not it" in done.stderr
    assert done.stderr.count("\n") == 1
