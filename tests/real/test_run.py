"""The main job as a user runs it: real Ray, real ranks, real MLflow; faults and Ctrl-C included."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    Event,
    MetricLogged,
    RankLost,
    RunEnded,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.meter import Bucket, Meter
from tests.real.conftest import CPU
from tests.support.paced import paced
from tests.support.processes import title

pytestmark = pytest.mark.real

SHORT = [
    *CPU, "model.seq_len=64", "job.steps=24", "job.args.checkpoint_every=8", "job.args.val_every=12",
    "job.args.sample_tokens=20",
]  # fmt: skip
TIMEOUT_S = 150


@dataclass
class Done:
    """A run that has ended."""

    name: str
    code: int
    text: str
    folder: Path
    seen: dict[str, Any] = field(default_factory=dict)

    def events(self) -> list[Event]:
        return [record.event for record in replay(self.folder / "runs" / self.name / "journal.jsonl")]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def losses(self) -> dict[int, float | None]:
        """The last loss of each step: what the model that was trained has seen."""
        return {event.step: event.loss for event in self.of(StepDone)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "runs").mkdir()
    shutil.copy(empty_database, folder / "runs" / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """An empty home directory; nothing of the test's own."""
    home = folder / "home"
    home.mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RAY_", "MLFLOW"))
    }
    return {**kept, "HOME": str(home), "COLUMNS": "110"}


Launch = Callable[..., Done]


@pytest.fixture(scope="module")
def launch(folder: Path, environment: dict[str, str]) -> Iterator[Launch]:
    """Runs the command line; ``meanwhile(process, journal)`` may do harm while it runs."""
    started: list[subprocess.Popen[str]] = []

    def run(
        name: str,
        *overrides: str,
        meanwhile: Callable[[int, Path], None] | None = None,
        env: dict[str, str] = environment,
    ) -> Done:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", f"run_name={name}", *overrides],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        if meanwhile:
            meanwhile(process.pid, folder / "runs" / name / "journal.jsonl")
        text, _ = process.communicate(timeout=TIMEOUT_S)
        return Done(name, process.returncode, text, folder)

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for_step(journal: Path, step: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if journal.exists() and any(
            isinstance(record.event, StepDone) and record.event.step >= step for record in replay(journal)
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached within {TIMEOUT_S} s")


def rank_pid(run: str, rank: int) -> int:
    called = f"orchestrator rank {rank}/2 {run}"
    found = [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if " ".join(p.info["cmdline"] or []).startswith(called)
    ]
    assert len(found) == 1, f"one process is called '{called}'"
    return found[0]


@pytest.fixture(scope="module")
def whole(launch: Launch) -> Done:
    """An uninterrupted run, its ranks started by exec."""
    return launch("whole", *SHORT, "launch.zygote=false")


@pytest.fixture(scope="module")
def killed(launch: Launch, folder: Path) -> Done:
    """A run whose rank 1 is killed between two checkpoints, its ranks forked from a zygote."""

    def kill(pid: int, journal: Path) -> None:
        wait_for_step(journal, 13)
        family = psutil.Process(pid).children(recursive=True)
        zygotes = [process for process in family if title(process) == "orchestrator zygote"]
        seen["zygotes"] = [zygote.ppid() == pid for zygote in zygotes]
        seen["niceness"] = os.getpriority(os.PRIO_PROCESS, rank_pid("killed", 1)) - os.getpriority(
            os.PRIO_PROCESS, 0
        )
        os.kill(rank_pid("killed", 1), signal.SIGKILL)
        hurry.touch()

    seen: dict[str, Any] = {}
    hurry = folder / "hurry"
    done = launch("killed", *SHORT, *paced(hurry), "launch.dashboard=false", meanwhile=kill)
    done.seen = seen
    return done


def test_ranks_come_from_the_zygote_that_imported_while_ray_started(killed: Done) -> None:
    assert killed.seen["zygotes"] == [True], "one, the driver's own child"


def test_ranks_are_as_important_as_what_started_them(killed: Done) -> None:
    assert killed.seen["niceness"] == 0, "Ray gives its workers 15"


def test_the_main_job_trains_and_says_what_it_cost(whole: Done) -> None:
    assert whole.code == 0, whole.text
    losses = whole.losses()
    assert list(losses) == list(range(1, 25))
    first, last = losses[1], losses[24]
    assert first is not None
    assert last is not None
    assert last < first - 2, "it learns"
    for shown in (
        "Plan",
        "1.64M parameters",
        "predicted",
        "core-hours",
        "cost",
        "Ray dashboard",
        "mlflow ui",
        "finished",
    ):
        assert shown in whole.text
    assert "Traceback" not in whole.text
    assert "\x1b" not in whole.text, "plain lines without a terminal"


def test_what_the_job_prints_as_json_is_a_metric(whole: Done) -> None:
    validations = [e for e in whole.of(MetricLogged) if "val_loss" in e.metrics]
    assert [e.step for e in validations] == [12, 24]


def test_launch_ran_exactly_the_plan(whole: Done, folder: Path, environment: dict[str, str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "orchestrator", "plan", "--json", *SHORT],
        cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(shown.stdout) == json.loads((folder / "runs/whole/plan.json").read_text())


def test_a_killed_rank_costs_seconds_and_no_step(whole: Done, killed: Done) -> None:
    assert killed.code == 0, killed.text
    (lost,) = killed.of(RankLost)
    assert (lost.rank, lost.exit_status, lost.reason) == (1, -9, "killed by SIGKILL")
    (decided,) = killed.of(Decided)
    assert decided.action == "restart"
    assert [e.step for e in killed.of(CheckpointLoaded)] == [8]
    assert len(killed.of(AttemptStarted)) == 2
    assert killed.losses() == whole.losses(), "to the last digit, forked or exec'd"
    assert "killed by SIGKILL" in killed.text
    assert "Connection closed by peer" not in killed.text, "what rank 0 felt is not the news"


@pytest.mark.parametrize("which", ["whole", "killed"])
def test_buckets_sum_to_the_time_and_the_bill_follows(which: str, request: pytest.FixtureRequest) -> None:
    done: Done = request.getfixturevalue(which)
    records = list(replay(done.folder / "runs" / done.name / "journal.jsonl"))
    bill = Meter().fold_all(records).bill()
    assert sum(bill.seconds.values()) == pytest.approx(bill.elapsed_s)
    held = sum(bill.gpu_seconds.values())
    assert bill.gpu_seconds[Bucket.WAITING] == 0
    assert bill.gpu_hours == pytest.approx(held / 3600)
    assert bill.cost_usd == pytest.approx(bill.gpu_hours * 0.048)
    if which == "killed":
        assert bill.seconds[Bucket.REDONE] > 0
        assert bill.seconds[Bucket.RECOVERING] > 0
        assert bill.restarts == 1
        assert bill.tokens == 24 * 512, "redone steps count once"


def test_compare_shows_the_runs_by_cost(
    whole: Done, killed: Done, folder: Path, environment: dict[str, str]
) -> None:
    def compare(*flags: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", "compare", *flags],
            cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip

    rows = {row["name"]: row for row in json.loads(compare("--json"))}
    for done in (whole, killed):
        row, bill = (
            rows[done.name],
            Meter().fold_all(replay(folder / "runs" / done.name / "journal.jsonl")).bill(),
        )
        assert row["status"] == "finished"
        assert (row["cluster"], row["gpu_type"], row["gpus"]) == ("local", "CPU core", 2)
        assert row["tokens"] == bill.tokens
        assert row["restarts"] == bill.restarts
        for name in (
            "gpu_hours",
            "cost_usd",
            "cost_usd_per_million_tokens",
            "goodput",
            "tokens_per_s",
            "mfu",
        ):
            assert row[name] == pytest.approx(getattr(bill, name)), name
        assert row["final_loss"] == pytest.approx(done.losses()[24])
    assert rows["killed"]["goodput"] < 1
    assert "whole" in compare()
    assert compare("--csv").splitlines()[0].startswith("run_id,name,")


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


# A user's own script, of whose model nothing is known; without what takes seconds to start and is not
# looked at here: preloaded imports, dashboard, MLflow.
OWN_SCRIPT = [
    *CPU,
    "job=script",
    "launch.zygote=false",
    "launch.dashboard=false",
    "tracking.uri=http://127.0.0.1:9",
]


def test_a_fault_of_the_job_itself_stops_with_its_diagnosis(
    launch: Launch, folder: Path, kept: dict[str, str]
) -> None:
    script = folder / "broken.py"
    script.write_text("import os\nraise KeyError(f\"no column 'text' for rank {os.environ['RANK']}\")\n")
    done = launch("broken", *OWN_SCRIPT, f"job.script={script}", env=kept)
    assert done.code == 6, done.text
    assert "MLflow: " in done.text
    assert "going on without it" in done.text
    ended = done.events()[-1]
    assert isinstance(ended, RunEnded)
    assert "same failure came back at the same step" in ended.reason
    assert len(done.of(AttemptStarted)) == 2
    assert all(lost.alike == 2 for lost in done.of(RankLost))
    assert done.text.count("Traceback (most recent call last)") <= 2, "once per attempt, not once per rank"
    assert "KeyError" in done.text


def test_whatever_a_rank_prints_the_run_goes_on(launch: Launch, folder: Path, kept: dict[str, str]) -> None:
    script = folder / "noisy.py"
    script.write_text(
        "import sys\n"
        'print(\'{"step": NaN, "odd": 1.0}\')\n'
        "print('{\"a\": ' + '[' * 100000)\n"
        "print('{\"big\": 1' + '0' * 400 + '}')\n"
        "sys.stdout.buffer.write(bytes(range(256)) * 100 + b'\\n')\n"
        "print('x' * 20_000_000)\n"
        "for n in range(200_000): print('line', n)\n"
        'print(\'{"step": 7, "answer": 42}\')\n'
    )
    done = launch("noisy", *OWN_SCRIPT, f"job.script={script}", env=kept)
    assert done.code == 0, done.text[-3000:]
    assert "lines left out here; all are in" in done.text
    assert len(done.text) < 300_000
    assert {"answer": 42.0} in [e.metrics for e in done.of(MetricLogged)]
    log = (folder / "runs/noisy/logs/attempt-1.rank-0.log").read_text(errors="replace")
    assert sum(line.startswith("line ") for line in log.split("\n")) == 200_000
