from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.driver import journal_fold
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import NAME, JournalFold
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Decided,
    Event,
    LossRejected,
    Outcome,
    RankLost,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.journal import Journal, replay

RUN: list[Event] = [
    RunStarted("r", "j", "local", "cpu", 2, 0.1, unit="CPU core", steps=30),
    ResourcesGranted(["n0"], 2),
    AttemptStarted(1, "127.0.0.1", 29500, 2),
    *(StepDone(1, step, 0.5, 1.0 / step) for step in range(1, 11)),
    CheckpointSaved(1, 10, "step-10", "/c", 0.1),
    *(StepDone(1, step, 0.5, 1.0 / step) for step in range(11, 15)),
    LossRejected(1, 14, 9.0, "a spike"),
    RankLost(1, 1, "n0", "CPU 1", -9, 14, "killed by SIGKILL"),
    AttemptEnded(1, Outcome.FAILED, 14),
    Decided("restart", "restart 1 of 3"),
    AttemptStarted(2, "127.0.0.1", 29501, 2, 10, "memory"),
    *(StepDone(2, step, 0.5, 1.0 / step) for step in range(11, 31)),
    AttemptEnded(2, Outcome.FINISHED, 30),
    RunEnded(Status.FINISHED, "the job ended by itself"),
]


def write(folder: Path, events: list[Event]) -> None:
    seconds = iter(range(1000, 10_000))
    with Journal(folder / "journal.jsonl", lambda: next(seconds)) as journal:
        for event in events:
            journal.append(event)


def whole(folder: Path) -> Folded:
    folded = Folded()
    for record in replay(folder / "journal.jsonl"):
        folded.fold(record)
    return folded


def state(folded: Folded) -> object:
    """All that it holds, for comparison: Python's own equality does not reach into the folds."""
    return pickle.dumps(pickle.loads(pickle.dumps(folded)))


def folded_records(folder: Path, monkeypatch: pytest.MonkeyPatch, **how: bool) -> int:
    """How many records a reader has to fold, who then knows what one knows who has read them all."""
    count, fold = 0, Folded.fold

    def counted(self: Folded, record: object) -> None:
        nonlocal count
        count += 1
        fold(self, record)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Folded, "fold", counted)
        found = JournalFold(folder, **how).catch_up()
    expected = whole(folder)
    assert found.ledger.bill() == expected.ledger.bill()
    assert found.ledger.incidents() == expected.ledger.incidents()
    assert found.resume_state.history == expected.resume_state.history
    assert found.resume_state.losses.__dict__ == expected.resume_state.losses.__dict__
    assert (found.last, found.run) == (expected.last, expected.run)
    assert found.ledger.predicted_actual() == expected.ledger.predicted_actual()
    return count


@pytest.mark.parametrize("cut", range(0, len(RUN) + 1, 3))
def test_a_reader_goes_on_where_the_fold_ends(
    tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, RUN[:cut])
    fold = JournalFold(tmp_path)
    fold.catch_up()
    fold.keep()
    write(tmp_path, RUN[cut:])
    assert folded_records(tmp_path, monkeypatch) == len(RUN) - cut
    assert folded_records(tmp_path, monkeypatch, stamp_is_enough=True) == len(RUN) - cut


def _change(**changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        head, _, body = path.read_bytes().partition(b"\n")
        path.write_bytes(json.dumps(json.loads(head) | changes).encode() + b"\n" + body)

    return damage


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b"\0" * 5000),
        _flip,
        _change(code="of another version"),
        _change(bytes=10),
        _change(bytes=10**9),
        _change(blake2b="0" * 128),
        lambda path: path.write_text("[]\n"),
    ],
    ids=[
        "missing",
        "empty",
        "torn",
        "zeros",
        "a bit",
        "other code",
        "fewer bytes",
        "more bytes",
        "other bytes",
        "list",
    ],
)
def test_a_fold_that_is_not_of_these_bytes_and_this_code_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, RUN)
    fold = JournalFold(tmp_path)
    fold.catch_up()
    fold.keep()
    damage(tmp_path / NAME)
    assert folded_records(tmp_path, monkeypatch) == len(RUN)


def test_a_journal_that_is_another_one_is_never_taken_for_the_one_that_was_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same length, with the same last record: only the bytes tell."""
    write(tmp_path, RUN)
    fold, path = JournalFold(tmp_path), tmp_path / "journal.jsonl"
    fold.catch_up()
    fold.keep()
    assert folded_records(tmp_path, monkeypatch, stamp_is_enough=True) == 0
    path.write_text(path.read_text().replace('"loss":0.2,', '"loss":0.3,').replace('"gpus": 2', '"gpus": 3'))
    assert folded_records(tmp_path, monkeypatch) == len(RUN)
    assert folded_records(tmp_path, monkeypatch, stamp_is_enough=True) == len(RUN)


def test_a_pickle_of_anything_else_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    write(tmp_path, RUN)
    fold = JournalFold(tmp_path)
    fold.catch_up()
    monkeypatch.setattr(fold, "folded", Folded())
    fold.folded.last = list(replay(tmp_path / "journal.jsonl"))[-1]
    fold.folded.ledger = Bad()  # type: ignore[assignment]
    fold.keep()
    assert folded_records(tmp_path, monkeypatch) == len(RUN)
    assert not (tmp_path / "made").exists()


def test_where_it_cannot_be_written_nothing_is_lost_and_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, RUN)
    fold = JournalFold(tmp_path)
    fold.catch_up()

    def full(_path: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    fold.keep()
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_the_driver_keeps_the_fold_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_fold, "AT_ONCE", 4)
    monkeypatch.setattr(journal_fold, "EVERY_RECORDS", 12)
    left = []
    with Journal(tmp_path / "journal.jsonl") as journal:
        fold = JournalFold(tmp_path)
        for event in RUN:
            fold.appended(journal.append(event))
            left.append(folded_records(tmp_path, monkeypatch))
        fold.finish()
    assert max(left) < 12 + 4
    assert len(left) > 12 + 4
    assert folded_records(tmp_path, monkeypatch) == 0


def test_the_writer_goes_on_from_the_fold_without_reading_what_is_before(tmp_path: Path) -> None:
    write(tmp_path, RUN[:20])
    fold = JournalFold(tmp_path)
    fold.catch_up()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"seq":20,"t"')
    with Journal(tmp_path / "journal.jsonl", after=fold.mark) as journal:
        assert journal.append(RUN[20]).seq == 20
    assert [record.seq for record in replay(tmp_path / "journal.jsonl")] == list(range(21))


def test_a_fold_counts_for_the_user_who_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(tmp_path, RUN)
    monkeypatch.setenv("XDG_STATE_HOME", str(ours))
    fold = JournalFold(tmp_path)
    fold.catch_up()
    fold.keep()
    assert (ours / "orchestrator" / "fold.key").stat().st_mode & 0o777 == 0o600
    assert folded_records(tmp_path, monkeypatch) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(theirs))
    assert folded_records(tmp_path, monkeypatch) == len(RUN)
    assert not theirs.exists(), "who only looks makes no key"


def test_where_no_key_can_be_kept_the_journal_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    write(tmp_path, RUN)
    fold = JournalFold(tmp_path)
    fold.catch_up()
    fold.keep()
    assert not (tmp_path / NAME).exists()
    assert folded_records(tmp_path, monkeypatch) == len(RUN)
