from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import JournalError, RunDirectoryError
from orchestrator.events import (
    AttemptEnded,
    Event,
    MetricLogged,
    Outcome,
    RankOutput,
    Record,
    RunStarted,
    StepDone,
)
from orchestrator.ledger.journal import Journal, Tail, replay, tail
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.record_lines import line_of, record_of, time_after
from tests.support.folders import GOLDEN


class FakeClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def step(number: int) -> StepDone:
    return StepDone(attempt=1, step=number, step_time_s=0.5, loss=1.0 / number)


def write(path: Path, *events: Event) -> list[Record]:
    with Journal(path) as journal:
        return [journal.append(event) for event in events]


def test_what_was_appended_is_replayed_equal(tmp_path: Path) -> None:
    events: list[Event] = [
        RunStarted("r", "j", "local", "cpu", 2, 0.1, unit="CPU core", steps=10),
        step(1),
        MetricLogged(1, None, {"val_loss": 2.5}),
        AttemptEnded(1, Outcome.FINISHED, 1),
    ]
    records = write(tmp_path / "runs" / "a" / "journal.jsonl", *events)
    assert list(replay(tmp_path / "runs" / "a" / "journal.jsonl")) == records
    assert [record.seq for record in records] == [0, 1, 2, 3]
    assert [record.event for record in records] == events


def test_a_record_is_in_the_file_and_synced_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    path = tmp_path / "journal.jsonl"
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    with Journal(path) as journal:
        synced.clear()
        journal.append(step(1))
        assert [data.count(b"\n") for data in synced] == [1]
        journal.append_many([step(2), step(3), step(4)])
        assert [data.count(b"\n") for data in synced] == [1, 4]


def test_clocks_are_injected_and_elapsed_goes_on_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    clock, wall = FakeClock(), FakeClock(1.7e9)
    with Journal(path, clock, wall) as journal:
        clock.now += 2.5
        assert journal.append(step(1)).elapsed_s == 2.5
        wall.now -= 3600  # the wall clock was set back: the run's own clock does not care
        clock.now += 1
        record = journal.append(step(2))
        assert (record.elapsed_s, record.time_unix_s) == (3.5, 1.7e9 - 3600)
    with Journal(path, FakeClock(5.0), wall) as journal:
        record = journal.append(step(3))
        assert (record.seq, record.elapsed_s) == (2, 3.5)
    assert [record.seq for record in replay(path)] == [0, 1, 2]


def test_elapsed_never_decreases_with_a_broken_clock(tmp_path: Path) -> None:
    clock = FakeClock()
    with Journal(tmp_path / "j", clock) as journal:
        clock.now += 5
        journal.append(step(1))
        clock.now -= 3
        assert journal.append(step(2)).elapsed_s == 5.0
    assert len(list(replay(tmp_path / "j"))) == 2


def test_events_for_the_terminal_only_are_stamped_but_take_no_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(step(1))
        shown = journal.append(RankOutput(1, 0, "hello"))
        kept = journal.append_many([RankOutput(1, 0, "again"), step(2)])[1]
    assert isinstance(shown.event, RankOutput)
    assert kept.seq == shown.seq == 1
    assert [type(record.event) for record in replay(path)] == [StepDone, StepDone]


@pytest.mark.parametrize(
    "torn", [b'{"seq": 2, "elapsed_s"', b"x\n", b"\0" * 40 + b"\n", b"\xff\xfe\n", b"\n"], ids=range(5)
)
def test_a_torn_last_line_is_dropped_and_cut_off_by_the_next_writer(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, step(1), step(2))
    with path.open("ab") as file:
        file.write(torn)
    assert [record.seq for record in replay(path)] == [0, 1]
    assert path.read_bytes().endswith(torn), "a reader changes nothing"
    assert write(path, step(3))[0].seq == 2
    assert [record.event for record in replay(path)] == [step(1), step(2), step(3)]


def test_a_whole_record_without_newline_was_never_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, step(1), step(2))
    path.write_bytes(path.read_bytes()[:-1])
    assert [record.seq for record in replay(path)] == [0]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(min_value=0, max_value=2000))
def test_cut_anywhere_the_whole_lines_remain(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    write(path, *[step(number) for number in range(1, 13)])
    whole = path.read_bytes()
    cut = min(cut, len(whole))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert len(list(replay(path))) == kept
    assert write(path, step(99))[0].seq == kept


def _line(**changes: object) -> Callable[[dict[str, object]], bytes]:
    return lambda body: json.dumps(body | changes).encode()


ANY_LINE = [
    (lambda _body: b"{broken", "is not JSON"),
    (lambda _body: b"[1]", "is not a JSON object"),
    (_line(seq=5), "has seq 5 where 1 was expected"),
    (_line(seq=0), "has seq 0 where 1 was expected"),
    (_line(surprise=1), "is not a record ("),
]
IN_FULL = [
    *ANY_LINE,
    (_line(elapsed_s=-1.0), "elapsed_s is -1.0 and has to be seconds from 0"),
    (_line(type="AttemptEnd"), "is not a record (KeyError: 'AttemptEnd')"),
]
A_STEP = [
    *ANY_LINE,
    (_line(t=-1.0), "elapsed_s is -1.0 and has to be seconds from 0"),
    (_line(t="1"), "is not a record ("),
    (lambda body: json.dumps({key: body[key] for key in body if key != "s"}).encode(), "KeyError: 's'"),
]


@pytest.mark.parametrize(
    ("event", "damage", "reason"),
    [(AttemptEnded(1, Outcome.FAILED, 1), *one) for one in IN_FULL] + [(step(2), *one) for one in A_STEP],
)
def test_any_other_damage_names_line_and_reason(
    tmp_path: Path, event: Event, damage: Callable[[dict[str, object]], bytes], reason: str
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, step(1), event, step(3))
    lines = path.read_bytes().splitlines()
    lines[1] = damage(json.loads(lines[1]))
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(JournalError, match="line 2") as caught:
        list(replay(path))
    assert reason in str(caught.value)
    with pytest.raises(JournalError, match="line 2"):
        Journal(path)


def test_a_step_takes_less_than_120_bytes_and_is_read_as_it_was(tmp_path: Path) -> None:
    path, clock, wall = tmp_path / "journal.jsonl", FakeClock(), FakeClock(1.7e9)
    events = [StepDone(9, 1_000_000 + n, 0.98765, 2.345678, 0.00029988, 0.81235) for n in range(3)]
    with Journal(path, clock, wall) as journal:
        clock.now += 9_000_000.123
        records = [journal.append(event) for event in [AttemptEnded(1, Outcome.FAILED, 1), *events]]
    lines = path.read_bytes().splitlines(keepends=True)
    assert all(len(line) < 120 for line in lines[2:])
    assert list(replay(path)) == records
    assert json.loads(lines[1])["loss"] == 2.345678, "jq finds it by its name"


def test_a_wall_clock_that_was_set_is_told_and_one_that_drifts_is_followed(tmp_path: Path) -> None:
    path, clock, wall = tmp_path / "journal.jsonl", FakeClock(), FakeClock(1.7e9)
    with Journal(path, clock, wall) as journal:
        records = []
        for number, passed_s in enumerate([1.0, 1.0, 3600.0, 1.0, *[1.0004] * 1000], 1):
            clock.now, wall.now = clock.now + 1.0, wall.now + passed_s
            records.append(journal.append(step(number)))
            assert abs(records[-1].time_unix_s - wall.now) <= 0.0515
    assert list(replay(path)) == records
    told = [index for index, line in enumerate(path.read_text().splitlines()) if '"at":' in line]
    assert told[:2] == [0, 2]
    assert len(told) < 15


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=3, max_size=3),
    seconds=st.floats(allow_nan=False),
    elapsed=st.lists(st.floats(0, 1e7), min_size=2, max_size=2),
    unix=st.floats(0, 4e9),
)
def test_any_step_is_read_as_it_was_written(
    values: list[float | None], seconds: float, elapsed: list[float], unix: float
) -> None:
    before = Record(0, min(elapsed), unix, AttemptEnded(1, Outcome.FAILED, 1))
    event = StepDone(3, 7, seconds, values[0], values[1], values[2])
    for time_unix_s in (unix, time_after(before, max(elapsed))):
        record = Record(1, max(elapsed), time_unix_s, event)
        assert record_of(json.loads(line_of(record, before)), before) == record
        assert record_of(json.loads(line_of(record, None)), None) == record


def test_an_older_journal_is_read_and_gone_on_with(tmp_path: Path) -> None:
    """Written before steps had a short form: nulls, types and both clocks in every line, to the
    microsecond."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes((GOLDEN / "journal_with_steps_in_full.jsonl").read_bytes())
    records = list(replay(path))
    assert [record.seq for record in records] == list(range(23))
    assert [e.step for r in records if isinstance(e := r.event, StepDone)] == [1, 2, 3, 4, 5, 5, 6]
    assert records[4].event == StepDone(1, 1, 0.123456789012, 3.5, 0.0003, 0.987654321)
    bill = Meter().fold_all(records).bill()
    assert (bill.step, bill.restarts, bill.final_loss) == (6, 1, 2.59)
    assert sum(bill.seconds.values()) == pytest.approx(bill.elapsed_s) == pytest.approx(17.25003)
    new = write(path, step(7), step(8))
    assert list(replay(path)) == [*records, *new]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(RunDirectoryError, match="another live run"):
        Journal(tmp_path / "j")
    write(tmp_path / "j", step(1))


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot write the journal"):
        Journal(tmp_path / "file" / "journal.jsonl")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    real = os.write

    def half_then_full(fd: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data)[: len(data) // 2])

    with Journal(path) as journal:
        journal.append(step(1))
        monkeypatch.setattr(os, "write", half_then_full)
        with pytest.raises(RunDirectoryError, match="No space left"):
            journal.append(step(2))
        monkeypatch.undo()
        assert journal.append(step(3)).seq == 1
    assert [record.event for record in replay(path)] == [step(1), step(3)]


def test_tail_reads_whole_records_only_and_survives_a_writer_that_cuts(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = Tail(path)
    assert reader.read() == []
    write(path, step(1))
    with path.open("ab") as file:
        file.write(b'{"seq": 1, ')
    assert [record.seq for record in reader.read()] == [0]
    assert reader.read() == []
    write(path, step(2), step(3))
    assert [record.seq for record in reader.read()] == [1, 2]
    assert reader.read() == []


def test_a_line_longer_than_one_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tail, "READ_BYTES", 64)
    records = write(
        tmp_path / "j", step(1), MetricLogged(1, 1, {f"m{i}": float(i) for i in range(99)}), step(2)
    )
    assert list(replay(tmp_path / "j")) == records


def _write_steps(path: str, count: int) -> None:
    with Journal(path) as journal:
        for number in range(1, count + 1):
            journal.append(step(number))


@pytest.mark.real
def test_tail_follows_another_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = multiprocessing.get_context("spawn").Process(target=_write_steps, args=(str(path), 300))
    writer.start()
    try:
        groups = list(tail(path, stop=lambda: not writer.is_alive(), poll_s=0.002))
    finally:
        writer.join(30)
    assert [record.seq for group in groups for record in group] == list(range(300))
    assert len(groups) > 1, "records came while the other process was writing"
