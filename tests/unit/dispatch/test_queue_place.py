"""A queue is on one machine, in one folder, of one account: whoever comes from elsewhere is told where it is,
and nothing is begun beside it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.cli.cli import main
from orchestrator.dispatch import queue_place
from orchestrator.dispatch.queue_place import ID, NAME, claim, fleet_here
from orchestrator.dispatch.serve import serve
from orchestrator.dispatch.store import Store

FLEET = "pools: {cpus: {nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}}\n"
ONE = ["job=tiny_gpt", "cluster.gpus_per_node=1"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "fleet.yaml").write_text(f"state_dir: {tmp_path / 'disk'}\n{FLEET}")
    monkeypatch.chdir(tmp_path)
    return runs


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_another_machine_begins_no_other_queue(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "head")
    orc.queue(runs).submit(*ONE, key="a")
    # What another machine has at that path: nothing.
    shutil.move(runs.parent / "disk", runs.parent / "of_the_head")
    monkeypatch.setattr(platform, "node", lambda: "login")
    for words in (["submit", "key=b", *ONE], ["queue"], ["dispatch"], ["dispatch", "--stop"], ["drain", "n"]):
        said = refused(capsys, *words)
        assert f"its queue is on head, in {runs.parent / 'disk'}, and not on login" in said
        assert "type it on head, or if that machine is gone, remove" in said
    assert not (runs.parent / "disk" / "fleet.db").exists()
    with pytest.raises(orc.ConfigError, match="its queue is on head"):
        serve(runs, print, threading.Event())
    (runs / NAME).unlink()
    assert orc.queue(runs).submit(*ONE, key="b").is_new


def test_who_only_looks_takes_no_place(runs: Path) -> None:
    assert orc.queue(runs).jobs() == []
    assert not (runs / NAME).exists()


def test_of_two_machines_that_begin_at_once_one_is_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, write = fleet_here(runs), queue_place._write_once

    def late(path: Path, place: queue_place.Place) -> None:
        write(path, queue_place.Place("another", "head", "/somewhere"))
        write(path, place)

    monkeypatch.setattr(queue_place, "_write_once", late)
    with pytest.raises(orc.ConfigError, match="its queue is on head, in /somewhere"):
        claim(runs, fleet)


def test_a_folder_is_not_changed_while_it_has_jobs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = runs.parent / "disk", runs.parent / "other"
    orc.queue(runs).submit(*ONE, key="a")
    (runs / "fleet.yaml").write_text(f"state_dir: {new}\n{FLEET}")
    assert f"state_dir: is {new} now, and 1 job that has not ended is in {old}" in refused(capsys, "queue")
    shutil.move(old, new)  # as it says
    assert [job.key for job in orc.queue(runs).jobs()] == ["a"]
    orc.queue(runs).cancel("a")
    assert json.loads((runs / NAME).read_text())["state_dir"] == str(new)
    (runs / "fleet.yaml").write_text(FLEET)
    assert orc.queue(runs).submit(*ONE, key="b").is_new
    assert json.loads((runs / NAME).read_text())["state_dir"] == "fleet"


def test_a_queue_in_the_run_root_may_be_removed(runs: Path) -> None:
    (runs / "fleet.yaml").write_text(FLEET)
    orc.queue(runs).submit(*ONE, key="a")
    shutil.rmtree(runs / "fleet")
    assert orc.queue(runs).jobs() == []
    assert orc.queue(runs).submit(*ONE, key="a").is_new


def test_a_disk_of_another_machine_below_the_run_root_is_none_that_was_removed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs / "fleet.yaml").write_text(FLEET)
    orc.queue(runs).submit(*ONE, key="a")
    shutil.rmtree(runs / "fleet")
    other = Path("/dev/shm").stat().st_dev
    assert other != runs.stat().st_dev
    (runs / "fleet").symlink_to("/dev/shm")
    with pytest.raises(orc.ConfigError, match="the queue was in"):
        fleet_here(runs)


def test_a_run_root_that_is_moved_takes_its_queue_along(runs: Path) -> None:
    (runs / "fleet.yaml").write_text(FLEET)
    orc.queue(runs).submit(*ONE, key="a")
    shutil.move(runs, runs.parent / "moved")
    assert [job.key for job in orc.queue(runs.parent / "moved").jobs()] == ["a"]


def test_a_queue_from_before_places_were_written_down_is_taken(runs: Path) -> None:
    with Store(runs.parent / "disk"):
        pass
    orc.queue(runs).submit(*ONE, key="a")
    assert json.loads((runs / NAME).read_text())["queue"] == (runs.parent / "disk" / ID).read_text().strip()


def test_a_second_account_is_refused_in_plain_words(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orc.queue(runs).submit(*ONE, key="a")
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 4321)
    for words in (["submit", "key=b", *ONE], ["queue"], ["cancel", "a"]):
        said = refused(capsys, *words)
        assert "its queue is of one account, " in said
        assert f"and you are uid {own + 4321}; have that account type it ('sudo -u " in said


def test_a_damaged_record_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / NAME).write_text("{")
    assert "it says where the queue is: remove it on the machine that has the queue" in refused(
        capsys, "queue"
    )
