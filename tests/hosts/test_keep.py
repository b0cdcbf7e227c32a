"""A cluster that stays: `up`, runs that attach by themselves, `status`, `down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.events import AttemptStarted, CheckpointSaved, ResourcesGranted, RunStarted, StepDone
from orchestrator.ledger.journal import replay
from tests.support.paced import paced
from tests.support.texts import text_so_far

pytestmark = pytest.mark.real

TIMEOUT_S = 120
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]
SHORT = [
    *CPU, "job.steps=6", "model.seq_len=64", "job.args.val_every=0", "job.args.sample_tokens=0",
    "job.args.checkpoint_every=0",
]  # fmt: skip


@dataclass
class Desk:
    """A user's folder with an empty home, and what he types there."""

    folder: Path
    environment: dict[str, str]

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator", *args]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )

    def type(self, *args: str, code: int = 0) -> str:
        process = self.start(*args)
        try:
            text, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        assert process.returncode == code, text
        return text

    def run(self, name: str, *overrides: str) -> list[Any]:
        self.type(f"run_name={name}", *overrides)
        return self.events(name)

    def events(self, name: str) -> list[Any]:
        path = self.folder / "runs" / name / "journal.jsonl"
        return [record.event for record in replay(path)] if path.exists() else []

    def status(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(self.type("status", "--json"))
        return seen

    def zygotes(self) -> list[dict[str, Any]]:
        (node,) = self.status()["nodes"]
        return node["zygotes"] or []


def first(events: list[Any], kind: type[Any]) -> Any:
    return next(event for event in events if isinstance(event, kind))


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def in_session(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if os.getsid(process.pid) == pid and process.info["cmdline"]:
                found.append(process)
        except (ProcessLookupError, PermissionError):
            continue
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "home").mkdir()
    strange = ("PYTEST", "RAY_", "MLFLOW", "XDG_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    desk = Desk(folder, {**own, "HOME": str(folder / "home"), "COLUMNS": "110"})
    yield desk
    desk.type("down", "--force")


@pytest.fixture(scope="module")
def up(desk: Desk) -> str:
    return desk.type("up", *CPU)


def record(desk: Desk) -> WarmCluster:
    text = (desk.folder / "home" / ".local" / "state" / "orchestrator" / "cluster.json").read_text()
    return WarmCluster(**json.loads(text))


def test_up_shows_a_warm_node_and_is_on_loopback_alone(desk: Desk, up: str) -> None:
    assert "ready" in up
    assert "started by 'up'" in up
    assert "Other machines cannot join a loopback address: for that, 'up launch.node_address=ADDRESS'" in up
    pid = record(desk).head_pid
    assert pid is not None
    heard = {each.laddr.ip for process in in_session(pid) for each in process.net_connections("tcp")
             if each.status == psutil.CONN_LISTEN}  # fmt: skip
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    token = desk.folder / "home" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text().strip() not in up


def test_a_second_up_finds_the_first(desk: Desk, up: str) -> None:
    before = record(desk)
    again = desk.type("up", *CPU)
    assert f"up already: {before.address}" in again
    assert record(desk) == before
    assert len(desk.zygotes()) == 1


def test_a_run_attaches_and_forks_from_the_warm_zygote(desk: Desk, up: str) -> None:
    (before,) = desk.zygotes()
    events = desk.run("warm", *SHORT)
    assert first(events, RunStarted).ray_address == record(desk).address
    assert first(events, ResourcesGranted).warnings == []
    (after,) = desk.zygotes()
    assert (after["pid"], after["runs"]) == (before["pid"], before["runs"] + 1)
    assert not (desk.folder / "runs" / "warm" / "logs" / "zygote.node-0.log").exists()
    seen = desk.status()
    (ended,) = [run for run in seen["ended_runs"] if run["name"] == "warm"]
    assert ended["status"] == "finished"
    assert 0 < ended["cost_usd"] <= seen["cost_usd"]


def test_a_job_that_does_not_fit_gets_another_zygote_and_is_told_why(desk: Desk, up: str) -> None:
    (before,) = desk.zygotes()
    unfit = [override for override in SHORT if "threads" not in override] + ["cluster.cpu_threads_per_rank=2"]
    events = desk.run("unfit", *unfit)
    (warning,) = first(events, ResourcesGranted).warnings
    assert (
        "the warm zygote does not fit this job (MKL_NUM_THREADS" in warning
        or "OMP_NUM_THREADS: '1'" in warning
    )
    assert {before["pid"]} < {zygote["pid"] for zygote in desk.zygotes()}


def test_a_rank_that_dies_is_forked_again_from_the_warm_zygote(desk: Desk, up: str) -> None:
    hurry = desk.folder / "hurry"
    process = desk.start(
        "run_name=hurt", *SHORT, *paced(hurry), "job.steps=40", "job.args.checkpoint_every=5"
    )
    assert eventually(lambda: any(isinstance(event, CheckpointSaved) for event in desk.events("hurt")))
    title = "orchestrator rank 1/2 hurt"
    (rank,) = [
        p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or []).startswith(title)
    ]
    os.kill(rank.pid, signal.SIGKILL)
    hurry.touch()
    text, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, text
    assert [event.attempt for event in desk.events("hurt") if isinstance(event, AttemptStarted)] == [1, 2]


def test_down_waits_for_runs_unless_forced_and_leaves_nothing(desk: Desk, up: str) -> None:
    endless = [*SHORT, *paced(desk.folder / "never"), "job.steps=100000"]
    process = desk.start("run_name=endless", *endless, "recovery.max_restarts=0")
    try:
        assert eventually(lambda: any(isinstance(event, StepDone) for event in desk.events("endless")))
        (live,) = desk.status()["runs"]
        assert (live["name"], live["ranks"], live["status"]) == ("endless", 2, "running")
        assert live["cost_usd"] > 0
        assert "endless" in desk.type("down", code=3)
        cluster = record(desk)
        assert cluster.answers()
        zygotes = [zygote["pid"] for zygote in desk.zygotes()]
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert cluster.head_pid is not None
    assert cluster.session_dir is not None
    assert "nothing is left" in desk.type("down")
    assert in_session(cluster.head_pid) == []
    assert not any(psutil.pid_exists(pid) for pid in zygotes)
    assert not Path(cluster.session_dir).exists()
    assert "no cluster is up" in desk.type("down")
    assert "'orchestrator up' starts one" in desk.type("status", code=3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_up_that_is_stopped_leaves_nothing(desk: Desk, number: signal.Signals, code: int) -> None:
    log = desk.folder / "home" / ".local" / "state" / "orchestrator" / "ray-head.log"
    log.unlink(missing_ok=True)
    process = desk.start("up", *CPU)
    assert eventually(lambda: "Local node IP" in text_so_far(log))
    (head,) = [child for child in psutil.Process(process.pid).children() if "start" in child.cmdline()]
    process.send_signal(number)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    assert in_session(head.pid) == []
    assert "no cluster is up" in desk.type("down")


def test_idle_zygotes_go_and_the_next_run_warms_one_again(desk: Desk) -> None:
    desk.type("up", *CPU, "launch.idle_timeout_s=2", "launch.dashboard=false")
    assert eventually(lambda: desk.status()["nodes"][0]["zygotes"] is None)
    events = desk.run("rewarmed", *SHORT)
    assert first(events, ResourcesGranted).warnings == []
    assert not (desk.folder / "runs" / "rewarmed" / "logs" / "zygote.node-0.log").exists()
    head = record(desk).head()
    assert head is not None
    head.kill()
    head.wait(10)
    alone = desk.run("alone", *SHORT)
    assert first(alone, RunStarted).ray_address is None
    assert "nothing is left" in desk.type("down")
