"""One process that tells MLflow of many runs: what breaks, ends or is killed costs the others nothing."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.ledger.mlflow import shared_sink, sink
from orchestrator.ledger.mlflow.only_writer import only_writer
from orchestrator.ledger.mlflow.pace import Shared, Turns
from orchestrator.ledger.mlflow.shared_client import Client, Logs
from orchestrator.ledger.mlflow.shared_messages import (
    Done,
    Follow,
    Follows,
    GiveUp,
    Said,
    from_driver,
    from_sink,
)
from orchestrator.ledger.mlflow.shared_process import Place, SharedSink, place_of
from orchestrator.ledger.mlflow.sink import STUCK_S
from orchestrator.ledger.mlflow.sink_process import SinkSupervisor
from tests.support.folders import PROJECT
from tests.support.processes import end, running, title
from tests.support.sink_harness import (
    END,
    UNTIL_S,
    Writer,
    assert_faithful,
    cursor,
    log_of,
    new_run_dir,
    story,
    the_run,
    track,
    until,
)

pytestmark = pytest.mark.real

STEPS = 40


class Driver:
    """What a run's driver does for MLflow, without the run."""

    def __init__(self, folder: Path, place: Place, uri: str) -> None:
        self.run_dir = new_run_dir(folder)
        self.experiment = folder.name
        track(self.run_dir, uri, experiment=self.experiment)
        self.writer = Writer(self.run_dir)
        self.story = [*story(STEPS), *END]
        self.said: list[str] = []
        self.sinks: list[SharedSink] = []
        self._place = place
        self.keeper = SinkSupervisor(self._start, lambda last: None)

    def _start(self) -> SharedSink:
        follow = Follow(str(self.run_dir), UNTIL_S, 0)
        self.sinks.append(SharedSink(self._place, follow, self.said.append))
        return self.sinks[-1]

    def begin(self) -> None:
        self.keeper.begin(self.said.append)

    def write(self, events: int) -> None:
        told, self.story = self.story[:events], self.story[events:]
        self.writer.write(told)

    def pid(self) -> int:
        """Of the process that it shares, once that says so."""
        until(lambda: self.sinks[-1].pid > 0)
        return self.sinks[-1].pid


@pytest.fixture
def ended_after() -> Iterator[list[int]]:
    """Processes that are ended whatever the test finds."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if psutil.pid_exists(pid):
            end(psutil.Process(pid))


def test_runs_share_a_process_and_what_breaks_in_one_or_kills_it_costs_no_other_anything(
    tmp_path: Path, empty_database: Path, ended_after: list[int]
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    place = place_of(tmp_path / "fleet", uri, "", os.environ)
    whole, killed, broken = (Driver(tmp_path / name, place, uri) for name in ("whole", "killed", "broken"))
    for driver in (whole, killed, broken):
        driver.write(20)
        driver.begin()
    first = whole.pid()
    ended_after.append(first)
    assert {driver.pid() for driver in (killed, broken)} == {first}
    until(lambda: all(cursor(driver.run_dir) >= 10 for driver in (whole, killed, broken)))

    with (broken.run_dir / "journal.jsonl").open("a") as journal:
        journal.write("{}\n" * 2)
    until(lambda: any("is not a record" in line for line in broken.said))
    broken.keeper.close()

    process = psutil.Process(first)
    process.kill()
    until(lambda: not running(process))
    whole.write(10)
    until(lambda: all(len(driver.sinks) > 1 for driver in (whole, killed)))
    second = whole.pid()
    ended_after.append(second)
    assert second not in (0, first)
    assert killed.pid() == second
    assert whole.said[0].startswith("MLflow: the process that tells it is gone; another is started in 1 s")

    killed.keeper.close()
    killed.sinks[-1]._channel.shutdown(socket.SHUT_RDWR)  # as when the driver dies
    whole.write(len(whole.story))
    assert whole.keeper.wait(lambda: False)
    whole.keeper.close()
    assert_faithful(uri, whole.run_dir, STEPS, whole.experiment)
    until(lambda: the_run(uri, killed.experiment)[1].info.status == "KILLED")
    assert the_run(uri, killed.experiment)[1].data.tags["status"] == "unknown"
    assert "following" in log_of(whole.run_dir)
    assert str(broken.run_dir) not in log_of(whole.run_dir)
    assert f"process {second} serves" in (tmp_path / "fleet" / "mlflow_sink.log").read_text()


STARTS = """
import os, sys
from pathlib import Path
from orchestrator.ledger.mlflow.shared_process import _start, place_of

_start(place_of(Path(sys.argv[1]), "http://127.0.0.1:9", "", os.environ))
"""


def test_who_has_started_it_and_leaves_before_it_is_not_warned(
    tmp_path: Path, ended_after: list[int]
) -> None:
    started = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", STARTS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ended_after += [each.pid for each in psutil.process_iter() if str(tmp_path) in title(each)]
    assert len(ended_after) == 1
    assert started.stderr == ""


def test_it_ends_a_while_after_the_last_connection_and_is_told_to_stop_as_one_sink_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_sink, "LINGER_S", 0.2)
    monkeypatch.setattr(shared_sink, "LOOK_S", 0.05)
    for stopped in (False, True):
        address = f"\0orchestrator-test-{secrets.token_hex(8)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen()
        process = shared_sink.Process(listener, 1, Logs(logging.NullHandler()))
        served = threading.Thread(target=process.serve)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as driver:
            driver.connect(address)
            served.start()
            served.join(1.0)
            assert served.is_alive(), "somebody is connected"
            if stopped:
                process.told_to_stop(signal.SIGTERM, None)
                served.join(UNTIL_S)
        served.join(UNTIL_S)
        assert not served.is_alive()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late,
            pytest.raises(ConnectionRefusedError),
        ):
            late.connect(address)


class StuckRun:
    """Stands for an MLflow run of a server that takes a call and never answers."""

    def __init__(self) -> None:
        self.called, self.comes_back = threading.Event(), threading.Event()
        self.written_seq = -1
        self.ended = ""

    def open(self, start_ms: int | None) -> None:
        self.called.set()
        assert self.comes_back.wait(UNTIL_S)

    def write_params(self, params: dict[str, str]) -> None: ...

    def write_note(self, ours: str, scripts: str | None) -> None: ...

    def write_tags(self, tags: dict[str, str]) -> None: ...

    def write(self, points: list[Any], done_seq: int) -> None:
        self.written_seq = done_seq

    def upload(self) -> None: ...

    def keep_incidents(self, incidents: list[Any]) -> None: ...

    def end(self, status: str, end_ms: int) -> None:
        self.ended = status


def test_a_call_that_does_not_come_back_holds_neither_the_run_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, turns = StuckRun(), Turns(1)
    monkeypatch.setattr(sink, "MlflowRun", lambda *_: stuck)
    run_dir = new_run_dir(tmp_path)
    track(run_dir, "http://127.0.0.1:9")
    Writer(run_dir).write([*story(10), *END])
    ours, its = socket.socketpair()
    with ours, its, ours.makefile("rb") as told:
        client = Client(its, Logs(logging.NullHandler()), Shared(lambda: 1, turns))
        ours.sendall(from_driver.encode(Follow(str(run_dir), 30.0, 0)))
        assert client.receive()
        assert isinstance(from_sink.decode(told.readline()), Follows)
        assert stuck.called.wait(UNTIL_S)
        now_s = time.monotonic()
        assert not client.is_stuck(now_s)
        assert client.is_stuck(now_s + 30.0 + STUCK_S), "as one alone ends in a call that does not come back"
        ours.sendall(from_driver.encode(GiveUp()))
        assert client.receive()
        assert not client.is_stuck(now_s)
        assert client.is_stuck(time.monotonic() + STUCK_S), "nobody waits any more"
        assert client.works
        client.abandon()
        said, done = (from_sink.decode(told.readline()) for _ in range(2))
        assert isinstance(said, Said)
        assert said.text.startswith("MLflow did not take everything within 0 s (no answer); the journal has")
        assert done == Done(1)
        assert not client.works
        with Shared(lambda: 1, turns).turn() as others_turn, only_writer(run_dir):
            assert others_turn
            stuck.comes_back.set()
            until(lambda: not client._thread.is_alive())  # type: ignore[union-attr]
        assert (stuck.written_seq, stuck.ended) == (-1, ""), "what has been given up is not written"
