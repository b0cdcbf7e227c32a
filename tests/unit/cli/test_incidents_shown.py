from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.incidents import incidents as show
from orchestrator.errors import ConfigError
from orchestrator.events import (
    AttemptEnded,
    Decided,
    Fault,
    Outcome,
    RankLost,
    RunEnded,
    Status,
    Verdict,
)
from orchestrator.records import record_to_json
from tests.support.played_runs import BEGIN, PRICE, Timeline, lost, records, started, steps


def run_directory(root: Path, name: str, timeline: Timeline) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    (directory / "journal.jsonl").write_text(
        "".join(record_to_json(record) + "\n" for record in records(timeline))
    )
    return directory


def shown(run: str, root: Path, as_json: bool = False, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(run, str(root), as_json, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


STORY: Timeline = [
    *BEGIN,
    *steps(1, 1, 9, at=1),
    (12, lost(1, 9, fault=Fault.HANG, reason="no progress for 3 s, 10 medians of 'step'", detected_s=3.0)),
    (12, AttemptEnded(1, Outcome.FAILED, 9)),
    (12, Decided("restart", "restart 1 of 3")),
    (13, started(2, 8, "memory")),
    *steps(2, 9, 20, at=15),
    (27, RunEnded(Status.FINISHED, "")),
]


def test_a_table_by_name_or_by_path_and_json_for_programs(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "runs", "night-1", STORY)
    by_name = shown("night-1", tmp_path / "runs", width=160)
    assert by_name == shown(str(directory), tmp_path, width=160)
    row, done = by_name.splitlines()[3:5]
    assert row.split(maxsplit=2)[:2] == ["1", "0:00:12"]
    assert "rank 2 on node n0, GPU 2: made no progress any more at step 9: no progress for 3 s" in row
    assert row.split()[-6:] == ["3.00", "s", "6.00", "s", "1", "$0.0240"]
    assert done.strip() == "restored step 8 from memory"
    assert "night-1: 1 incident, 0.00667 GPU-hours, $0.0240: 22.2% of $0.108" in by_name.splitlines()
    assert "lost: $0.0280 of $0.108: $0.0200 restart, $0.00400 stop, $0.00400 rollback" in by_name
    assert by_name.splitlines()[-1].split() == ["incident", "1", "0.00667", "GPU-hours", "$0.0240", "22.2%"]
    (row,) = json.loads(shown("night-1", tmp_path / "runs", as_json=True, width=20))
    assert row["recovered_after_s"] == 6.0
    assert row["cost_usd"] == pytest.approx(4 * 6 / 3600 * PRICE)
    assert {"number", "fault", "what", "node", "gpu", "rank", "step", "attempt", "at_elapsed_s", "time_unix_s",
            "detected_after_s", "recovered_after_s", "redone_steps", "gpu_hours", "cost_usd", "action",
            "reason", "done", "verdict", "evidence", "checked"} == row.keys()  # fmt: skip


def test_a_run_without_incidents_says_so(tmp_path: Path) -> None:
    run_directory(tmp_path, "calm", [*BEGIN, *steps(1, 1, 3, at=1)])
    assert shown("calm", tmp_path).splitlines()[:3] == ["night-1: no incidents", "", "lost: nothing"]
    assert json.loads(shown("calm", tmp_path, as_json=True)) == []


def test_a_run_that_is_not_there_is_refused_with_the_near_miss(tmp_path: Path) -> None:
    for name in ("night-1", "day-1"):
        run_directory(tmp_path, name, BEGIN)
    with pytest.raises(ConfigError, match=r"no run 'nigth-1' in .*; did you mean 'night-1'\? \(newest: "):
        shown("nigth-1", tmp_path)
    with pytest.raises(ConfigError, match=r"no run 'x' in .*absent \(there is none yet\)"):
        shown("x", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: not a run directory"):
        shown(str(tmp_path / "empty"), tmp_path)


def test_hardware_or_code_is_said_where_it_is_proven(tmp_path: Path) -> None:
    gpu = lost(
        1,
        9,
        reason="exited with status 1",
        verdict=Verdict.HARDWARE,
        evidence={"XID": 79.0, "link downs": 2.0},
    )
    story = [(at, gpu if isinstance(event, RankLost) else event) for at, event in STORY]
    run_directory(tmp_path / "runs", "night-1", story)
    assert "verdict: hardware: XID 79, link downs 2" in shown("night-1", tmp_path / "runs", width=160)
    (row,) = json.loads(shown("night-1", tmp_path / "runs", as_json=True))
    assert (row["verdict"], row["evidence"]) == ("hardware", {"XID": 79.0, "link downs": 2.0})
