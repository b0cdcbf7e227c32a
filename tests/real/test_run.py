"""The main job as a user runs it: real Ray, real ranks, real MLflow; a killed rank included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointLoaded,
    Decided,
    MetricLogged,
    RankLost,
    RunEnded,
)
from orchestrator.ledger.journal import replay
from orchestrator.ledger.meter import Bucket, Meter
from tests.support.paced import paced
from tests.support.processes import title
from tests.support.typed_runs import OWN_SCRIPT, SHORT, Done, Launch, wait_for_step

pytestmark = pytest.mark.real


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
