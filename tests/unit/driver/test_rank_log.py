"""What ranks have printed, as a person reads it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orchestrator.agent.log_bound import LEAST_BYTES, LogBound
from orchestrator.driver.rank_log import Lines, RankLog, chosen_logs, followed, last_lines, rank_logs
from orchestrator.errors import RunDirectoryError


def write(run_dir: Path, attempt: int, rank: int, content: bytes) -> RankLog:
    (run_dir / "logs").mkdir(exist_ok=True)
    path = run_dir / "logs" / f"attempt-{attempt}.rank-{rank}.log"
    with path.open("ab") as file:
        file.write(content)
    return RankLog(attempt, rank, path)


def test_logs_are_found_by_rank_and_attempt_in_the_order_of_numbers(tmp_path: Path) -> None:
    for attempt, rank in ((10, 0), (2, 0), (2, 11), (2, 9)):
        write(tmp_path, attempt, rank, b"x\n")
    (tmp_path / "logs" / "zygote.node-0.log").write_text("no rank's")
    assert [(log.attempt, log.rank) for log in rank_logs(tmp_path)] == [(2, 0), (2, 9), (2, 11), (10, 0)]
    assert [log.attempt for log in chosen_logs(tmp_path, 0, None)] == [2, 10]
    with pytest.raises(RunDirectoryError, match="no log of rank 7; there are 3 ranks: 0, 9, 11"):
        chosen_logs(tmp_path, 7, None)
    with pytest.raises(RunDirectoryError, match="no log of rank 9; there is 1 rank: 0"):
        chosen_logs(tmp_path, 9, 10)
    with pytest.raises(RunDirectoryError, match="no logs of attempt 3; there are 2, 10"):
        chosen_logs(tmp_path, 0, 3)
    with pytest.raises(RunDirectoryError, match="no rank has printed anything yet"):
        chosen_logs(tmp_path / "logs", 0, None)


def test_a_file_where_the_folder_of_logs_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(RunDirectoryError, match="logs: cannot be read: Not a directory"):
        chosen_logs(tmp_path, 0, None)


def test_binary_data_escapes_and_lines_without_end_are_harmless(tmp_path: Path) -> None:
    log = write(tmp_path, 1, 0, b"a\x1b[2Jb\xff\n 10%\r 20%\r\n" + b"y" * 2_000_000 + b"\nlast")
    lines = list(last_lines(log, 0))
    assert lines[:2] == ["ab\ufffd", " 20%"]
    assert "".join(lines[2:-1]) == "y" * 2_000_000
    assert max(map(len, lines)) <= 1 << 18, "it was not held in memory as a whole"
    assert lines[-1] == "last"
    assert list(last_lines(log, 2)) == [*lines[-2:]]
    write(tmp_path, 2, 0, random.Random(1).randbytes(300_000))
    shown = "".join(last_lines(rank_logs(tmp_path)[1], 0))
    assert shown
    assert all(letter.isprintable() or letter in "\t\ufffd" or not letter.isascii() for letter in shown)


def test_what_was_left_out_of_a_log_is_passed_over_and_said(tmp_path: Path) -> None:
    log = write(tmp_path, 1, 0, b"".join(b"line %07d\n" % number for number in range(300_000)))
    LogBound(log.path, LEAST_BYTES).hold()
    lines = list(last_lines(log, 0))
    assert lines[0] == "line 0000000"
    assert lines[-1] == "line 0299999"
    assert any("of this log are left out here" in line for line in lines)
    assert len(lines) < 60_000
    # a hole of a gigabyte, and nothing but a hole at the end
    with log.path.open("ab") as file:
        file.truncate(file.tell() + (1 << 30))
        file.seek(0, 2)
        file.write(b"after it\n")
        file.truncate(file.tell() + (1 << 30))
    assert list(last_lines(log, 1)) == ["after it"]


def test_a_log_that_was_emptied_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = write(tmp_path, 1, 0, b"one\ntwo\n")
    lines = Lines(log.path)
    assert lines.read() == ["one", "two"]
    log.path.write_bytes(b"new\n")
    assert lines.read() == ["new"]
    assert lines.read() == []


def test_following_goes_on_with_later_attempts_and_ends_with_the_run(tmp_path: Path) -> None:
    attempts = list[int]()
    write(tmp_path, 1, 0, b"old\n")
    write(tmp_path, 2, 0, b"a\nb\nc\n")
    looks = 0

    def goes_on() -> bool:
        """Each look at the run is a moment at which something has happened meanwhile."""
        nonlocal looks
        looks += 1
        match looks:
            case 3:
                write(tmp_path, 2, 0, b"d\nwithout its e")
            case 4:
                write(tmp_path, 2, 0, b"nd")
                write(tmp_path, 3, 0, b"e\n")
            case 6:
                write(tmp_path, 3, 0, b"f\nthe last")
        return looks < 6

    told = list(followed(tmp_path, 0, 2, goes_on, lambda log: attempts.append(log.attempt)))
    assert told == ["b", "c", "d", "without its end", "e", "f", "the last"]
    assert attempts == [2, 3]
