"""Logs that travel: whole where they are small, bounded where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.localize import leave_mark
from orchestrator.agent.log_bound import LogBounds
from orchestrator.agent.log_transfer import (
    BEHIND_BYTES,
    LEAST_BYTES,
    POLL_BYTES,
    LogSender,
    LogWriter,
    sender_of,
)
from orchestrator.agent.messages import LogGrown
from orchestrator.errors import RunDirectoryError
from tests.support.assignments import assignment

LOG = "attempt-1.rank-0.log"


def keeper(folder: Path) -> LogWriter:
    """Without a bound."""
    return LogWriter(folder, LogBounds(None, pytest.fail))


class Pair:
    """A node's log folder and the driver's, with what travels between them."""

    def __init__(self, tmp_path: Path, nodes: int = 1) -> None:
        self.node, self.driver = tmp_path / "node", tmp_path / "driver"
        self.node.mkdir()
        self.driver.mkdir()
        self.sender, self.keeper = LogSender(self.node, nodes), keeper(self.driver)
        self.travelled: list[int] = []

    def poll(self, *ended: str) -> None:
        parts = self.sender.parts(ended)
        self.travelled.append(sum(len(part.data) for part in parts))
        for part in parts:
            self.keeper.keep(part)

    def add(self, data: bytes, name: str = LOG) -> None:
        with (self.node / name).open("ab") as stream:
            stream.write(data)

    def arrived(self, name: str = LOG) -> bytes:
        return (self.driver / name).read_bytes()


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_what_a_rank_writes_arrives_byte_by_byte(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    pair = Pair(tmp_path_factory.mktemp("logs"))
    pair.sender.follow(LOG)
    pair.add(b"begin ")
    for piece in pieces:
        pair.poll()
        pair.add(piece)
    pair.poll(LOG)
    assert pair.arrived() == b"begin " + b"".join(pieces)


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.sender.follow(LOG)
    pair.poll()
    pair.add(b"late")
    pair.poll()
    assert pair.arrived() == b"late"


def test_what_an_earlier_agent_sent_is_not_sent_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.add(b"old\n", "zygote.log")
    pair.sender.follow("zygote.log")
    pair.add(b"new\n", "zygote.log")
    pair.poll()
    assert pair.arrived("zygote.log") == b"new\n"


def test_ranks_that_print_without_end_do_not_flood_the_driver(tmp_path: Path) -> None:
    nodes, names = 8, [f"attempt-1.rank-{rank}.log" for rank in range(4)]
    pair = Pair(tmp_path, nodes)
    room = POLL_BYTES // nodes
    for name in names:
        pair.sender.follow(name)
    for _ in range(4):
        for name in names:
            pair.add(b"x" * (BEHIND_BYTES // 2) + b"\n", name)
        pair.poll()
    notices = 4 * 200
    assert max(pair.travelled) <= room + notices
    for name in names:
        pair.add(b"the last line\n", name)
    pair.poll(*names)
    assert pair.travelled[-1] <= 4 * room + notices
    for name in names:
        text = pair.arrived(name).decode()
        assert " bytes left out here; all are in " in text
        assert str(pair.node / name) in text
        assert text.endswith("x\nthe last line\n")


def test_the_figure_of_what_was_left_out_is_right(tmp_path: Path) -> None:
    pair = Pair(tmp_path, nodes=10**6)
    assert pair.sender.room_bytes == LEAST_BYTES
    pair.sender.follow(LOG)
    pair.add(b"y" * 3 * LEAST_BYTES)
    pair.poll(LOG)
    before, _, after = pair.arrived().partition(b" bytes left out here")
    assert before.decode() == f"\n… {2 * LEAST_BYTES:,}"
    assert after.count(b"y" * LEAST_BYTES) == 1


def test_a_slow_reader_catches_up_without_gaps_when_little_is_missing(tmp_path: Path) -> None:
    pair = Pair(tmp_path, nodes=10**6)
    pair.sender.follow(LOG)
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    assert LEAST_BYTES < len(data) < BEHIND_BYTES
    pair.add(data)
    for _ in range(len(data) // LEAST_BYTES + 1):
        pair.poll()
    assert pair.arrived() == data


def test_an_ended_log_is_forgotten(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.sender.follow(LOG)
    pair.poll(LOG)
    pair.add(b"more")
    pair.poll()
    assert not (pair.driver / LOG).exists()


def test_a_part_lands_in_the_folder_whatever_its_name(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.keeper.keep(LogGrown("../../escape.log", b"x"))
    assert pair.arrived("escape.log") == b"x"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot write .*absent/a\.log"):
        keeper(tmp_path / "absent").keep(LogGrown("a.log", b"x"))


def test_logs_travel_only_where_the_driver_does_not_see_them(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    mark = leave_mark(shared)
    assert sender_of(assignment(run_dir=str(shared), run_dir_mark=mark)) is None
    assert sender_of(assignment(run_dir=str(shared))) is None, "nobody asked for them"
    sender = sender_of(assignment(run_dir=str(own), run_dir_mark=mark))
    assert sender is not None
    assert sender.room_bytes == POLL_BYTES // 2
    assert (own / "logs").is_dir()
