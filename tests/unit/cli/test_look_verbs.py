"""``runs``, ``logs``, ``report``, ``open`` and ``stop`` as they are typed, of runs that have ended or never
began."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.args import TAKE_A_RUN
from orchestrator.driver.tracking import DASHBOARD
from orchestrator.events import RunEnded, Status
from orchestrator.ledger.run_directory import RunDirectory
from tests.support.played_runs import BEGIN, Timeline, steps
from tests.unit.cli.test_cli import Call, one_line
from tests.unit.cli.test_cli import call as call
from tests.unit.cli.test_incidents_shown import STORY, run_directory

OPEN: Timeline = [*BEGIN, *steps(1, 1, 3, at=1)]
FAILED: Timeline = [*OPEN, (9, RunEnded(Status.FAILED, "the same error twice"))]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, timeline in (("night-1", STORY), ("gone", OPEN), ("failed", FAILED)):
        run_directory(tmp_path / "runs", name, timeline)
    return tmp_path / "runs"


def test_runs_are_listed_filtered_and_added_up(call: Call, root: Path) -> None:
    code, out, _ = call("runs")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()[1:4]}
    assert {name: row[1] for name, row in rows.items()} == {
        "night-1": "finished", "gone": "lost", "failed": "failed",
    }  # fmt: skip
    assert out.splitlines()[4].startswith("3 runs, 0.0")
    code, out, _ = call("runs", "--state", "lost,failed", "--json")
    assert {run["name"] for run in json.loads(out)} == {"gone", "failed"}
    assert call("runs", "--job", "nobody")[1].startswith("no run of this kind in runs; set run_root")
    assert "see --limit 2" in call("runs", "--limit", "1")[1]
    assert "no run is that; did you mean 'lost'?" in one_line(call("runs", "--state", "lots"))
    assert "--rank: a flag of logs, not of 'runs', which has" in one_line(call("runs", "--rank", "1"))


def test_a_report_is_the_summary_and_what_broke(call: Call, root: Path) -> None:
    code, out, _ = call("report", "night-1")
    assert code == 0
    assert out.strip().startswith("night-1 finished")
    assert "goodput" in out
    assert "GPU 2: made no progress any more at step" in " ".join(out.split())
    assert "to go on with it" not in out, "it has finished"
    for name in ("gone", "failed"):
        told = call("report", name)[1].splitlines()[-1]
        assert told.startswith("to go on with it: ")
        assert told.endswith(f"orchestrator resume {name}")
    body = json.loads(call("report", "gone", "--json")[1])
    assert (body["run"], body["state"], body["bill"]["step"], body["incidents"]) == ("night-1", "lost", 3, [])
    (root / "new").mkdir()
    (root / "new" / "journal.jsonl").write_text("")
    assert "new has not begun" in one_line(call("report", "new"))


def test_logs_are_printed_cleaned_and_without_secrets(call: Call, root: Path) -> None:
    (root / "night-1" / "logs").mkdir()
    log = root / "night-1" / "logs" / "attempt-1.rank-0.log"
    log.write_bytes(b"one\ntwo \x1b[2J\nlogin with 0pen-ses4me\n")
    (root / "night-1" / "resume.json").write_text('{"secrets": ["0pen-ses4me"]}')
    assert call("logs", "night-1")[1] == "one\ntwo \nlogin with ***\n"
    assert call("logs", "--rank", "0", "night-1", "-n", "1")[1] == "login with ***\n"
    assert call("logs", "night-1", "--follow", "--lines", "2")[1] == "two \nlogin with ***\n"
    for words, said, code in (
        (["--rank", "7"], "no log of rank 7; there is 1 rank: 0", 4),
        (["--attempt", "3"], "no logs of attempt 3; there are 1", 4),
        (["--rank", "x"], "'x' is not a number of 0 or more", 2),
        (["--attempt", "1", "--follow"], "leave --attempt or --follow out", 2),
    ):
        assert said in one_line(call("logs", "night-1", *words), code)
    assert "no rank has printed anything yet" in one_line(call("logs", "gone"), 4)
    assert call("logs", "gone", "--follow")[1] == ""
    assert "logs: which run?" in one_line(call("logs"))


def test_pages_are_named_and_no_browser_is_opened_for_a_file(call: Call, root: Path) -> None:
    (root / "night-1" / "tracking.json").write_text('{"uri": "http://me:pa55word-of-me@h:5000/"}')
    assert "MLflow         http://me:***@h:5000\n" in call("open", "night-1")[1]
    told = {"uri": "http://h:5000", "experiment_id": "3", "run_id": "abc"}
    (root / "night-1" / "mlflow_run.json").write_text(json.dumps(told))
    (root / "night-1" / DASHBOARD).write_text('{"url": "http://127.0.0.1:8265"}')
    out = call("open", "night-1")[1]
    assert "MLflow         http://h:5000/#/experiments/3/runs/abc\n" in out
    assert "Ray" not in out, "its Ray has ended with it"
    held = RunDirectory(root / "night-1")
    held.hold(resume=True)
    try:
        assert "Ray dashboard  http://127.0.0.1:8265\n" in call("open", "night-1")[1]
    finally:
        held.release()
    (root / "gone" / "tracking.json").write_text('{"uri": "sqlite:////data/mlflow.db"}')
    assert "ui --backend-store-uri sqlite:////data/mlflow.db" in call("open", "gone")[1]
    assert "none of these is a page" in one_line(call("open", "gone", "--browser"))


def test_a_browser_is_opened_where_one_is_to_be_found(
    call: Call, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (root / "night-1" / "mlflow_run.json").write_text(
        '{"uri": "http://h", "experiment_id": "3", "run_id": "a"}'
    )
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setattr("webbrowser._tryorder", None)
    monkeypatch.setenv("BROWSER", str(browser))
    assert call("open", "night-1", "--browser")[0] == 0
    assert (tmp_path / "opened").read_text() == "http://h/#/experiments/3/runs/a\n"
    browser.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr("webbrowser._tryorder", None)
    monkeypatch.setenv("PATH", "")
    assert "no browser is to be found here" in one_line(call("open", "night-1", "--browser"))


def test_a_run_that_nobody_holds_is_not_stopped(
    call: Call, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call("stop", "failed")
    assert (code, out) == (0, "failed has ended already: failed\n")
    assert "of an older version; send SIGTERM" in one_line(call("stop", "gone"), 4)
    monkeypatch.setattr("orchestrator.cli.stop.ANSWER_UNHELD_S", 0.0)
    (root / "gone" / "stop").write_text("")
    code, out, err = call("stop", "gone")
    assert (code, out) == (4, "gone is asked to stop\n")
    assert "no driver holds the run, it is lost" in err


def test_every_verb_that_takes_a_run_refuses_one_that_others_could_have_written(
    call: Call, root: Path
) -> None:
    (root / "night-1").chmod(0o777)
    for verb in TAKE_A_RUN:
        assert "may be written by everybody" in one_line(call(verb, "night-1")), verb
    assert call("report", "night-1", "--trust")[0] == 0
