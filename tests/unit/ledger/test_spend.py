"""What others may know of a run: its owner, its state and its cost, in a file of its own."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.events import (
    Event,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    Status,
    StopRequested,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run_directory import check_run_name
from orchestrator.ledger.spend import EVERY_S, SpendNote
from tests.unit.config.test_conf import composed

STARTED = RunStarted("r", "tiny", "local", "h100", 8, 2.0)


class Told:
    """A run whose records come when the test says, and what stands in its note then."""

    def __init__(self, config: Config) -> None:
        self.notices: list[str] = []
        self._ledger = Ledger()
        self.note = SpendNote(config, "r", "GPU", self._ledger, self.notices.append)
        self._seq = 0

    def __call__(self, elapsed_s: float, event: Event) -> dict[str, Any]:
        record = Record(self._seq, elapsed_s, 1e9 + elapsed_s, event)
        self._seq += 1
        self._ledger.fold(record)
        self.note.observe(record, self._ledger.bill())
        return self.read()

    def read(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.note.path.read_text()) if self.note.path.exists() else {}
        return said


def config_of(tmp_path: Path, *overrides: str) -> Config:
    return composed("job=tiny_gpt", f"run_root={tmp_path}", *overrides)


def test_each_turn_is_told_at_once_and_the_figures_every_half_a_minute(tmp_path: Path) -> None:
    run = Told(config_of(tmp_path, "owner=ada", "project=lm", "cost_center=42"))
    said = run(0.0, STARTED)
    assert run.note.path == tmp_path / "spend" / "r.json"
    about = {"run": "r", "owner": "ada", "project": "lm", "cost_center": "42", "unit": "GPU"}
    assert said.items() >= {**about, "state": "waiting", "gpus_held": 0}.items()
    said = run(10.0, ResourcesGranted(["a"], 8))
    assert (said["state"], said["gpus_held"], said["cost_usd"]) == ("running", 8, 0.0)
    quiet = StopRequested("nobody", 1.0)
    assert run(10.0 + EVERY_S - 1, quiet) == said
    said = run(10.0 + EVERY_S, quiet)
    assert said["gpu_hours"] == pytest.approx(8 * EVERY_S / 3600)
    assert said["cost_usd"] == pytest.approx(2 * 8 * EVERY_S / 3600)
    assert said["updated_unix_s"] == pytest.approx(1e9 + 10 + EVERY_S)
    assert run(10.0 + EVERY_S + 1, ResourcesReleased())["state"] == "waiting"
    said = run(10.0 + EVERY_S + 2, RunEnded(Status.FINISHED, "done"))
    assert (said["state"], said["gpus_held"]) == ("finished", 0)
    assert run(100.0, RunResumed("r", "why"))["state"] == "waiting"
    assert run.notices == []


def test_the_owner_is_the_user_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    assert Told(config_of(tmp_path))(0.0, STARTED)["owner"] == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 987_654_321)
    assert Told(config_of(tmp_path))(0.0, STARTED)["owner"] == "uid 987654321"


@pytest.mark.parametrize(("root", "expected"), [(0o755, 0o1750), (0o2775, 0o3770), (0o700, 0o1750)])
def test_the_group_of_the_run_root_may_read_it_and_nobody_else(
    tmp_path: Path, root: int, expected: int
) -> None:
    tmp_path.chmod(root)
    if os.getuid() == 0:
        os.chown(tmp_path, -1, 12345)
        tmp_path.chmod(root)
    run = Told(config_of(tmp_path))
    run(0.0, STARTED)
    assert stat.S_IMODE(run.note.path.parent.stat().st_mode) == expected
    assert stat.S_IMODE(run.note.path.stat().st_mode) == 0o640
    assert run.note.path.stat().st_gid == run.note.path.parent.stat().st_gid == tmp_path.stat().st_gid


def test_where_it_cannot_be_written_the_run_goes_on_and_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "spend").write_text("a file")
    run = Told(config_of(tmp_path))
    run(0.0, STARTED)
    run(1.0, ResourcesGranted(["a"], 8))
    (notice,) = run.notices
    assert notice.startswith(f"what this run spends cannot be told to others ({tmp_path}/spend/r.json: ")


def test_no_run_has_the_folder_s_name() -> None:
    with pytest.raises(ConfigError, match="run_root/spend holds what all runs spend"):
        check_run_name("spend")
    check_run_name("spending")


def test_a_dead_driver_s_note_shows_its_age(tmp_path: Path) -> None:
    run = Told(replace(config_of(tmp_path), owner="ada"))
    run(0.0, STARTED)
    said = run(5.0, ResourcesGranted(["a"], 8))
    assert (said["state"], said["every_s"], said["updated_unix_s"]) == ("running", EVERY_S, 1e9 + 5)
