"""The record of the cluster that `up` keeps, and what a run makes of it."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster import tls
from orchestrator.cluster.session import connect
from orchestrator.cluster.warm import record
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.config.schema import ClusterConfig, Config
from orchestrator.driver import journal_fold
from orchestrator.driver.cluster_status import other_runs
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.preflight import find_target
from orchestrator.driver.warm_cluster import down
from orchestrator.errors import ClusterError, ClusterUnreachable, ConfigError
from orchestrator.events import ResourcesGranted, ResourcesReleased, RunEnded, RunStarted, Status
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.processes import start_of


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tls, "_TIMEOUT_S", 0.05)  # who listens here never says a word
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "state"


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def cluster(address: str, **about: Any) -> WarmCluster:
    return dataclasses.replace(WarmCluster(address, None, None, None, None, 1.8e9, 60.0), **about)


def config(ray_address: str | None = None, name: str = "local", nodes: int = 1) -> Config:
    return Config(cluster=ClusterConfig(name=name, nodes=nodes), ray_address=ray_address)


def test_a_record_is_found_until_it_is_forgotten(listening: str, state: Path) -> None:
    assert record.find() is None
    record.record(cluster(listening))
    assert record.find() == cluster(listening)
    assert (state / "orchestrator").stat().st_mode & 0o077 == 0
    record.forget()
    record.forget()
    assert record.find() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"address": 1}'])
def test_a_damaged_record_is_none(text: str, state: Path) -> None:
    (state / "orchestrator").mkdir(parents=True)
    (state / "orchestrator" / "cluster.json").write_text(text)
    assert record.find() is None


def test_a_cluster_answers_while_its_head_runs_and_somebody_listens(
    listening: str, closed_address: str
) -> None:
    me = {"head_pid": os.getpid(), "head_created_unix_s": psutil.Process().create_time()}
    assert cluster(listening).answers()
    assert cluster(listening, **me).answers()
    assert not cluster(closed_address, **me).answers()
    reused = {**me, "head_created_unix_s": me["head_created_unix_s"] - 100}
    assert not cluster(listening, **reused).answers(), (
        "the number of a dead head was given to another process"
    )
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not cluster(listening, head_pid=child.pid, head_created_unix_s=time.time()).answers()


def test_our_head_is_known_after_a_step_of_the_clock(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    created, boot = psutil.Process().create_time(), psutil.boot_time()
    kept = cluster(listening, head_pid=os.getpid(), head_created_unix_s=created, head_start=start_of())
    older = cluster(listening, head_pid=os.getpid(), head_created_unix_s=created)
    assert (kept.is_running(), older.is_running()) == (True, True)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + 3600.0)
    assert (kept.is_running(), kept.answers(), older.is_running()) == (True, True, False)
    assert not cluster(listening, head_pid=os.getpid(), head_start=f"{start_of()}0").is_running()


def test_a_run_attaches_to_what_is_kept_and_starts_its_own_otherwise(
    listening: str, closed_address: str
) -> None:
    assert find_target(config()).address is None
    record.record(cluster(listening))
    assert find_target(config()).address == listening
    assert find_target(config()).warm_cluster == cluster(listening)
    assert find_target(config("local")).address is None
    assert find_target(config(listening)).warm_cluster == cluster(listening)
    record.record(cluster(closed_address))
    gone = find_target(config())
    assert gone.address is None
    assert gone.remark is not None
    assert closed_address in gone.remark


def test_a_run_of_named_nodes_waits_for_their_cluster_and_starts_none(
    listening: str, closed_address: str
) -> None:
    """What a queue starts just when its Ray has died is to be tried again, and not to be mended by anybody."""
    for wanted in (config(), config(nodes=2)):
        wanted.launch.node_ids = ["f0"] * wanted.cluster.nodes
        with pytest.raises(ClusterUnreachable, match=r"none is kept here; start one with 'orchestrator up'"):
            find_target(wanted)
        record.record(cluster(closed_address))
        with pytest.raises(ClusterUnreachable, match=f"{closed_address} does not answer any more"):
            find_target(wanted)
        record.record(cluster(listening))
        assert find_target(wanted).address == listening
        record.forget()


def test_a_job_that_ray_was_handed_finds_its_cluster(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert find_target(config()).address == listening
    assert find_target(config("local")).address is None
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert find_target(config()).address is None


def test_another_cluster_than_this_machine_needs_an_address_or_a_kept_one(listening: str) -> None:
    for wanted in (config(name="dgx_h100"), config(nodes=3)):
        with pytest.raises(ConfigError, match="needs ray_address"):
            find_target(wanted)
    record.record(cluster(listening))
    assert find_target(config(name="dgx_h100")).address == listening
    with pytest.raises(ConfigError, match="needs ray_address"):
        find_target(config("local", nodes=3))


def test_an_address_where_nobody_listens_is_refused_at_once(closed_address: str) -> None:
    with pytest.raises(ClusterUnreachable, match="nothing answers there"):
        find_target(config(closed_address))


def run_of(folder: Path, name: str, address: str | None, ended: bool = True) -> None:
    (folder / name).mkdir(parents=True)
    with Journal(folder / name / "journal.jsonl") as journal:
        journal.append(RunStarted(name, "tiny", "local", "CPU", 2, 36.0, "CPU core", ray_address=address))
        journal.append(ResourcesGranted(["a"], 2))
        if ended:
            journal.append(ResourcesReleased())
            journal.append(RunEnded(Status.FINISHED, "done"))


def test_runs_that_ended_are_those_of_this_cluster_and_time(tmp_path: Path) -> None:
    began_s = time.time() - 1
    for name, address, ended in (
        ("whole", "a:1", True),
        ("cut", "a:1", False),
        ("live", "a:1", False),
        ("other", "b:1", True),
        ("own", None, True),
    ):
        run_of(tmp_path, name, address, ended)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_text("not a record\nnor this\n")
    found = {run["name"]: run for run in other_runs(tmp_path, "a:1", began_s, {"live"})}
    assert {name: run["status"] for name, run in found.items()} == {"whole": "finished", "cut": "lost"}
    whole = found["whole"]
    assert whole["cost_usd"] == pytest.approx(whole["held_s"] / 3600 * 2 * 36.0)
    assert other_runs(tmp_path, "a:1", time.time() + 60, set()) == []


def test_a_run_that_a_driver_holds_waits_or_starts_and_is_not_lost(tmp_path: Path) -> None:
    """Between the agents that answer and the journals that have an end: no GPU is held, or not yet, or not
    any more."""
    directory = RunDirectory(tmp_path / "held")
    directory.hold()
    with Journal(tmp_path / "held" / "journal.jsonl") as journal:
        journal.append(RunStarted("held", "tiny", "local", "CPU", 2, 36.0, "CPU core", ray_address="a:1"))

        def status() -> str:
            (run,) = other_runs(tmp_path, "a:1", 0.0, set())
            return str(run["status"])

        assert status() == "waiting"
        journal.append(ResourcesGranted(["a"], 2))
        assert status() == "starting"
        directory.release()
        assert status() == "lost"
        journal.append(RunEnded(Status.INTERRUPTED, "stopped"))
        assert status() == "interrupted"


def test_a_finished_run_is_looked_at_without_reading_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path, "whole", "a:1")
    fold = JournalFold(tmp_path / "whole")
    fold.catch_up()
    fold.keep()
    before = other_runs(tmp_path, "a:1", 0.0, set())
    read: list[str] = []
    monkeypatch.setattr(Folded, "fold", lambda _self, record: read.append(str(record)))
    monkeypatch.setattr(journal_fold, "_digest_of", lambda path, _count: read.append(str(path)))
    assert other_runs(tmp_path, "a:1", 0.0, set()) == before
    assert read == []


class Said:
    """What `down` says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def busy(self, _what: str) -> nullcontext[None]:
        return nullcontext()


def test_a_ray_whose_folder_was_deleted_is_named_and_can_be_ended(
    listening: str, tmp_path: Path, state: Path
) -> None:
    """Ray ends a process that connects to one, with status 1 and without a word."""
    state.mkdir()
    (folder := tmp_path / "session" / "sockets").mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True
    ) as head:
        started = psutil.Process(head.pid).create_time()
        kept = cluster(
            listening, session_dir=str(folder.parent), head_pid=head.pid, head_created_unix_s=started
        )
        record.record(kept)
        assert kept.why_cut_off() is None
        folder.rmdir()
        (folder.parent / "logs").mkdir()  # which Ray's own processes make again
        why = f"{listening}: the folder of its Ray, {folder.parent}, was deleted under it, and nothing can"
        with pytest.raises(ClusterUnreachable, match=re.escape(why)), connect(listening, 1, False):
            pass
        said = Said()
        with pytest.raises(ClusterError, match=f"{re.escape(why)}.*; 'down --force' ends it"):
            down(said, force=False)  # type: ignore[arg-type]
        assert head.poll() is None
        down(said, force=True)  # type: ignore[arg-type]
        assert said.lines == [f"{listening}: stopped, nothing is left"]
        assert head.wait(60) != 0
    assert record.find() is None
    joined = cluster(listening, session_dir=str(folder.parent))
    assert joined.why_cut_off() is None, "what others have started is not looked into"
