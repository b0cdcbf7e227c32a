"""Drivers as processes: how they are known, what they are told, and what becomes of those that die."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator import papers
from orchestrator.dispatch.bounded_logs import keep_bounded
from orchestrator.dispatch.driver_files import DriverFiles
from orchestrator.dispatch.driver_starts import DriverStarts
from orchestrator.dispatch.drivers import ProcessDrivers
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.reconcile import AskToStop, Say, next_action
from orchestrator.driver import stop_file
from orchestrator.driver.driver_host import StartedDriver
from orchestrator.events import RunEnded, RunResumed, Status
from orchestrator.fleet.jobs import Job, JobSpec, JobState, Placement, PoolPlan
from orchestrator.fleet.pools import Pool
from orchestrator.ledger.journal import Journal
from tests.support.played_runs import BEGIN, steps

_HOLDS = """
import sys
from pathlib import Path
from orchestrator.dispatch.driver_files import DriverFiles
lock = DriverFiles(Path(sys.argv[1]), "a").take(2)
print("held", flush=True)
sys.stdin.read()
"""


class Starts(DriverStarts):
    """Starts a command in place of drivers."""

    def __init__(self, code: str) -> None:
        super().__init__(lambda: None, lambda: ())
        self.code = code
        self.starts = 0

    def start(
        self, module: str, words: Sequence[str], cwd: Path, log: int, pool: str, job: Sequence[str] = ()
    ) -> StartedDriver:
        self.starts += 1
        started = subprocess.Popen([sys.executable, "-c", self.code], cwd=cwd, stdout=log, stderr=log)
        started.wait()
        return StartedDriver(started.pid, None, started)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFile:
    pool = PoolEntry(Pool("gpus", 2, 8), ("gpu=h100",), token_file="/etc/token")
    return FleetFile(tmp_path / "fleet.yaml", tmp_path / "fleet", (pool,))


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    spec = JobSpec("a", "nlp", (PoolPlan("gpus", 8, 1.0),), overrides=("job=tiny_gpt",))
    job = Job(spec, JobState.STARTING, 0.0, run_name="a", epoch=2, placement=Placement("gpus", (0,), (8,)))
    return Entry(job, str(tmp_path))


def made(fleet: FleetFile, code: str = "") -> tuple[ProcessDrivers, Starts, list[str]]:
    said: list[str] = []
    starts = Starts(code)
    return (
        ProcessDrivers(fleet.path.parent, fleet.state_dir, starts, lambda: fleet, said.append), starts, said,
    )  # fmt: skip


@pytest.fixture
def holder(fleet: FleetFile) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock as a driver of the second epoch does."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(fleet.state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_driver_is_known_after_a_step_of_the_clock(
    fleet: FleetFile, entry: Entry, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + 2.0)
    seen = made(fleet)[0].seen(entry)
    assert (seen.epoch, seen.pid, seen.is_there) == (2, holder.pid, True)


def test_nodes_stay_taken_while_a_lock_is_held_by_nobody_knows_whom(
    fleet: FleetFile, entry: Entry, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fleet.state_dir / "drivers" / "a.lock"
    lock.write_text('{"epoch": 2, "pid": 1, "created_unix_s": 5.0}')  # of an earlier version, say
    looks = made(fleet)[0]
    for state, action in (
        (JobState.STARTING, None),
        (JobState.RUNNING, None),
        (JobState.STOPPING, AskToStop()),
    ):
        of = replace(entry, job=replace(entry.job, state=state))
        seen = looks.seen(of)
        assert (seen.held, seen.epoch) == (True, None)
        assert next_action(of, seen, True, 1e9) == action
    holder.kill()
    holder.wait()
    seen = looks.seen(entry)
    assert not seen.is_there
    monkeypatch.setattr(papers, "open_plain", _too_many_files)
    assert looks.seen(entry).held, "it may be: nobody can look"


def _too_many_files(path: Path) -> object:
    raise OSError(24, "Too many open files", str(path))


def test_what_a_driver_is_to_do_is_said_by_its_daemon(fleet: FleetFile, entry: Entry) -> None:
    looks, starts, _ = made(fleet)
    assert looks.start(entry, ("id-1",)) is None
    assert starts.starts == 1
    order = DriverFiles(fleet.state_dir, "a").order(2)
    assert order is not None
    assert order.token_file == "/etc/token"
    assert order.words[:2] == ("gpu=h100", "job=tiny_gpt")
    assert order.words[-1] == "launch.node_ids=[id-1]"
    assert DriverFiles(fleet.state_dir, "a").order(3) is None
    assert (fleet.state_dir / "drivers" / "a.start").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_started_as_it_was_meant_is_said_and_not_started(
    fleet: FleetFile, entry: Entry
) -> None:
    looks, starts, _ = made(fleet)
    gone = looks.start(replace(entry, cwd="/no/such"), ("id-1",))
    assert gone is not None
    assert gone.startswith("/no/such, where it was submitted, cannot be entered (No such file or directory)")
    elsewhere = replace(entry, job=replace(entry.job, placement=Placement("h200", (0,), (8,))))
    assert (looks.start(elsewhere, ("id-1",)) or "").startswith("pool='h200': there is no such pool")
    assert starts.starts == 0


def test_a_driver_that_died_before_it_had_begun_is_known_by_that_and_the_next_waits_longer(
    fleet: FleetFile, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, starts, _ = made(fleet, "raise SystemExit('no module named torch')")
    assert not looks.seen(entry).died, "none was started"
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    waits = []
    for losses in range(5):
        epoch = entry.job.epoch + losses
        of = replace(entry, losses=losses, job=replace(entry.job, epoch=epoch))
        since = now[0]
        while starts.starts == losses:
            looks.start(of, ("id-1",))
            now[0] += 0.5
        waits.append(now[0] - since)
        seen = looks.seen(of)
        assert (seen.died, seen.log) == (True, str(fleet.state_dir / "logs" / "a.log"))
        assert isinstance(next_action(of, seen, True, 0.0), Say)
        looks.tidy({"a"})
        assert looks.seen(of).died, "until it is taken into account"
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[1]
    assert "no module named torch" in (fleet.state_dir / "logs" / "a.log").read_text()
    looks.tidy(())
    assert not looks.seen(of).died


def test_a_driver_whose_end_is_on_record_has_not_died_before_it_had_begun(
    fleet: FleetFile, entry: Entry
) -> None:
    looks, _, _ = made(fleet)
    looks.start(entry, ("id-1",))
    assert looks.seen(entry).died
    DriverFiles(fleet.state_dir, "a").write_end(2, 3)
    assert not looks.seen(entry).died


def test_what_an_earlier_driver_said_is_known_by_its_place_in_the_journal(
    fleet: FleetFile, entry: Entry
) -> None:
    run_dir = fleet.path.parent / "a"
    run_dir.mkdir()
    with Journal(run_dir / "journal.jsonl") as journal:
        for _, event in (*BEGIN, *steps(1, 1, 3, at=1.0)):
            journal.append(event)
        journal.append(RunEnded(Status.INTERRUPTED, "stopped by ada"))
    set_back = replace(entry, driver_since=time.time() - 3600.0)
    looks, _, _ = made(fleet)
    assert looks.seen(set_back).run.nodes_left, "nobody knows better before it is started"
    looks.start(entry, ("id-1",))
    for of in (looks, made(fleet)[0]):  # and the next daemon
        seen = of.seen(set_back)
        assert (seen.run.nodes_left, seen.run.reason) == (False, "")
    with Journal(run_dir / "journal.jsonl") as journal:
        journal.append(RunResumed("a", ""))
        journal.append(RunEnded(Status.INTERRUPTED, "stopped by bob"))
    assert looks.seen(replace(entry, driver_since=time.time() + 3600.0)).run.nodes_left


def test_for_how_long_a_driver_has_been_asked_is_told_by_a_clock_that_nobody_sets(
    fleet: FleetFile, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, _, _ = made(fleet)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run_dir = fleet.path.parent / "a"
    run_dir.mkdir()
    (run_dir / stop_file.NAME).touch()  # its driver looks for it
    assert not looks.seen(entry).stop_asked
    looks.ask_to_stop(entry)
    assert (looks.seen(entry).stop_asked, looks.seen(entry).asked_s) == (True, 0.0)
    now[0] += 7.0
    assert looks.seen(entry).asked_s == 7.0
    (run_dir / stop_file.NAME).write_bytes(b"")
    assert not looks.seen(entry).stop_asked
    looks.ask_to_stop(entry)
    assert looks.seen(entry).asked_s == 0.0


def test_a_log_that_is_too_long_begins_anew_and_what_stood_in_it_is_beside_it(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        for turn in range(3):
            writer.write(b"x" * 90 + f"{turn}".encode())
            keep_bounded(log, most_bytes=100)
            assert log.stat().st_size == 91, "as long as it is not too long"
            writer.write(b"y" * 20)
            keep_bounded(log, most_bytes=100)
            assert log.stat().st_size == 0
            assert (tmp_path / "a.log.1").read_bytes() == b"x" * 90 + f"{turn}".encode() + b"y" * 20
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    keep_bounded(tmp_path / "none.log")
