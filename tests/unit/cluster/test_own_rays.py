"""Whose Ray is meant by `auto`, and whose session is ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from orchestrator.cli.show.run_view import OnTerminal
from orchestrator.cluster import own_rays
from orchestrator.cluster.warm import head, record
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.driver.warm_cluster import down
from orchestrator.errors import ClusterUnreachable, RankStartError
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.launcher import SharedZygote
from tests.support.processes import end
from tests.support.rank_harness import shared_owner, wait_until

ME, STRANGER = os.getuid(), 54321


@dataclass
class Process:
    """What is asked of one."""

    command: str
    gcs: str
    uid: int
    gone: bool = False

    def name(self) -> str:
        return self.command

    def cmdline(self) -> list[str]:
        if self.gone:
            raise psutil.NoSuchProcess(1)
        return [self.command, "--min_worker_port=1", f"--gcs-address={self.gcs}"]

    def uids(self) -> SimpleNamespace:
        return SimpleNamespace(real=self.uid)


def running(monkeypatch: pytest.MonkeyPatch, *processes: Process) -> None:
    monkeypatch.setattr(psutil, "process_iter", lambda: processes)


def test_auto_is_what_up_keeps_else_the_only_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    running(
        monkeypatch,
        Process("raylet", "10.0.0.1:6379", ME),
        Process("raylet", "10.0.0.2:6379", STRANGER),
        Process("raylet", "10.0.0.3:6379", ME, gone=True),
        Process("sleep", "10.0.0.4:6379", ME),
    )
    assert own_rays.auto_address("10.9.9.9:1") == "10.9.9.9:1"
    assert own_rays.auto_address(None) == "10.0.0.1:6379"


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        ([], "no Ray of yours runs on this machine; give host:port"),
        ([("a:1", STRANGER)], "no Ray of yours runs on this machine; that of another user is not taken"),
        ([("b:1", ME), ("a:1", 0)], "several run here, a:1, b:1; name one of them"),
    ],
)
def test_auto_is_nobody_elses_and_no_guess(
    processes: list[tuple[str, int]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(monkeypatch, *(Process("raylet", address, uid) for address, uid in processes))
    with pytest.raises(ClusterUnreachable, match=said):
        own_rays.auto_address(None)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's session."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    yield process
    end(psutil.Process(process.pid))
    process.wait(10)


def recorded(pid: int, created_unix_s: float, session_dir: str | None = None) -> WarmCluster:
    return WarmCluster("127.0.0.1:1", None, session_dir, pid, created_unix_s, 0.0, 60.0)


@pytest.mark.real
def test_a_stale_record_ends_no_session_that_has_its_number_now(
    stranger: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = recorded(stranger.pid, 1.0, str(tmp_path / "session"))
    assert not stale.is_running()
    head.stop_head(stale)
    assert stranger.poll() is None
    created = psutil.Process(stranger.pid).create_time()
    assert recorded(stranger.pid, created).is_running()
    monkeypatch.setattr(record.os, "getuid", lambda: STRANGER)
    assert not recorded(stranger.pid, created).is_running(), "another user's"
    assert recorded(stranger.pid, created).head_of_another() == ME
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(record, "why_not_ours", lambda _path: None)
    record.record(recorded(stranger.pid, created, str(tmp_path / "session")))
    (tmp_path / "session").mkdir()
    said = StringIO()
    down(OnTerminal(Console(file=said, width=200)), force=False)
    assert f"belongs to another user (uid {ME}) and is left as it is" in said.getvalue()
    assert record.find() is None
    assert stranger.poll() is None
    assert (tmp_path / "session").is_dir()


@pytest.mark.real
def test_what_a_head_that_is_gone_has_left_is_known_by_its_folder(tmp_path: Path) -> None:
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)", str(tmp_path / "session")],
        start_new_session=True,
    )
    cluster = recorded(left.pid, 1.0, str(tmp_path / "session"))
    assert cluster.head() is None
    assert wait_until(cluster.is_running), "once it has become the program that it was started as"
    assert not replace(cluster, session_dir=str(tmp_path / "other")).is_running()
    head.stop_head(cluster)
    assert left.wait(10) == -9


def test_a_record_that_others_may_write_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    record.record(recorded(1, 1.0))
    assert record.find() == recorded(1, 1.0)
    assert (tmp_path / "orchestrator" / "cluster.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "orchestrator").chmod(0o777)
    assert record.find() is None


def test_a_port_that_another_user_listens_at_now_is_no_cluster_that_was_joined() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert record.heard_at(address) == {ME}
        assert record.heard_at(address.replace("127.0.0.1", "192.0.2.1")) == set(), (
            "no address of this machine"
        )
        joined = WarmCluster(address, None, None, None, None, 0.0, 60.0)
        assert joined.answers(), "an earlier version's record"
        assert replace(joined, heard_uids=[ME]).answers()
        assert not replace(joined, heard_uids=[STRANGER]).answers()


@pytest.mark.real
def test_a_zygote_of_another_user_gets_no_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(shared_owner(tmp_path / "socket", ["multiprocessing"])) as owner:
        monkeypatch.setattr(wire, "peer_uid", lambda channel: STRANGER)
        with pytest.raises(RankStartError, match=f"another user's .uid {STRANGER}."):
            SharedZygote(str(tmp_path / "socket"), owner.key, ["multiprocessing"])
