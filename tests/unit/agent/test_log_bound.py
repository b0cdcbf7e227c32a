"""Logs within a bound: what is left out of them, what is kept, and that whoever reads along does not
notice."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent import log_bound, log_reader, log_transfer
from orchestrator.agent.log_bound import LogBound, LogBounds
from orchestrator.agent.log_reader import LogReader
from orchestrator.agent.log_transfer import LogSender, LogWriter
from orchestrator.agent.messages import LogGrown
from orchestrator.ledger.mlflow.client import LOG_TAIL_BYTES
from orchestrator.plan.layout.layout import LEAST_LOG_BYTES

KIB, MIB = 1024, 1024 * 1024
# Of a small log: an eighth is kept of its beginning, half of its end.
MOST = 256 * KIB
HEAD, TAIL = MOST // 8, MOST // 2
LOG = "attempt-1.rank-0.log"
NOTICE = re.compile(
    rb"\[orchestrator\] ([\d,]+) bytes of this log are left out here \(launch\.log_max_bytes=\d+\)\n"
)
LEFT_OUT = re.compile(r"\n… ([\d,]+) bytes left out here; all[^\n]*…\n".encode())
PASSED = re.compile(r"… ([\d,]+) bytes left out here, of the log too \(launch\.log_max_bytes\)")


class Printed:
    """A log that a rank appends to, and all that was ever printed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self.path.touch()
        self.whole = b""
        self.count = 0

    def print(self, lines: int, width: int) -> None:
        """Lines of this many characters, each with a number."""
        text = "".join(f"{self.count + i:0{width}d}\n" for i in range(lines)).encode()
        self.count += lines
        self.write(text)

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as stream:
            stream.write(data)
        self.whole += data

    @property
    def kept(self) -> bytes:
        return self.path.read_bytes()

    @property
    def on_disk_bytes(self) -> int:
        return self.path.stat().st_blocks * 512


def _number(found: bytes | str) -> int:
    return int(found.replace(b",", b"") if isinstance(found, bytes) else found.replace(",", ""))


def assert_as_it_should_be(printed: Printed, bound: LogBound, most: int = MOST) -> None:
    """Length, beginning and end are the rank's; all between is notices, zeros, and ends of lines."""
    kept, whole = printed.kept, printed.whole
    assert len(kept) == len(whole)
    assert printed.on_disk_bytes <= most
    assert kept[bound.end :] == whole[bound.end :]
    if not bound.end:
        return
    assert len(whole) - bound.end >= most // 2
    notice = kept.index(b"[orchestrator] ")
    ends_a_line = whole[notice - 1 : notice] == b"\n"  # if not, the notice came with one
    begin = notice if ends_a_line else notice - 1
    assert begin >= most // 8 - 4096
    assert kept[:begin] == whole[:begin]
    between = kept[notice : bound.end]
    told = [_number(count) for count in NOTICE.findall(between)]
    assert sum(told) == bound.end - begin
    assert set(NOTICE.sub(b"", between)) <= {0, ord("\n")}
    assert between.count(b"\n") == 2 * len(told)


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    printed = Printed(tmp_path)
    bound = LogBound(printed.path, MOST)
    bound.hold()
    printed.write(b"x" * (MOST - 1) + b"\n")
    bound.hold()
    assert (printed.kept, bound.end) == (printed.whole, 0)


def test_lines_at_both_ends_are_kept_and_what_is_between_says_how_much_it_was(tmp_path: Path) -> None:
    printed = Printed(tmp_path)
    bound = LogBound(printed.path, MOST)
    for _ in range(40):
        printed.print(200, width=99)
        bound.hold()
        assert_as_it_should_be(printed, bound)
    assert bound.end > 2 * MOST
    lines = [line for line in printed.kept.split(b"\n") if line.strip(b"\0")]
    numbers = [int(line) for line in lines if not line.startswith(b"[")]
    assert numbers == [*range(HEAD // 100), *range(bound.end // 100, printed.count)], "all lines are whole"
    assert lines[HEAD // 100].startswith(b"[orchestrator] ")


@pytest.mark.parametrize("place", [None, "/dev/shm"])
def test_a_log_that_grew_unseen_is_held_at_once(tmp_path: Path, place: str | None) -> None:
    """Its agent was stopped for a while, say."""
    with tempfile.TemporaryDirectory(dir=place or tmp_path) as folder:
        printed = Printed(Path(folder))
        printed.print(1000, width=9999)
        bound = LogBound(printed.path, MOST)
        bound.hold()
        assert_as_it_should_be(printed, bound)


def test_logs_without_lines_are_bounded_too(tmp_path: Path) -> None:
    """A progress bar returns to the beginning of its line, and never ends it."""
    printed = Printed(tmp_path)
    bound = LogBound(printed.path, MOST)
    for _ in range(20):
        printed.write(b"\r 5%" * 10_000)
        bound.hold()
    assert_as_it_should_be(printed, bound)
    assert b"\n[orchestrator] " in printed.kept, "the notice begins a line"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("print"), st.integers(0, 1200), st.sampled_from([1, 30, 99, 400])),
            st.sampled_from([("read",), ("send",), ("hold",)]),
        ),
        max_size=40,
    )
)
def test_readers_get_in_order_all_that_is_not_left_out(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str] | tuple[str, int, int]]
) -> None:
    world = World(tmp_path_factory.mktemp("logs"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log_reader, "READ_BYTES", 50_000)  # the reader falls behind
        for step in steps:
            getattr(world, step[0])(*step[1:])
        world.finish()


class World:
    """A rank, its agent and its driver, and what both have got of its log."""

    def __init__(self, folder: Path) -> None:
        (folder / "driver").mkdir()
        self.printed = Printed(folder)
        self.bound = LogBound(self.printed.path, MOST)
        self.reader = LogReader(self.printed.path)
        self.sender = LogSender(folder, nodes=10**6)
        self.sender.follow(LOG)
        self.lines: list[str] = []
        self.sent = b""

    def print(self, lines: int, width: int) -> None:
        self.printed.print(min(lines, 2 * MOST // width), width)

    def read(self) -> None:
        self.lines += self.reader.lines()

    def send(self) -> None:
        self.sent += b"".join(part.data for part in self.sender.parts())

    def hold(self) -> None:
        self.bound.hold()
        self.reader.skip(self.bound.end)
        self.sender.skip(LOG, self.bound.end)
        assert_as_it_should_be(self.printed, self.bound)

    def finish(self) -> None:
        self.hold()
        self.lines += self.reader.rest()
        self.sent += b"".join(part.data for part in self.sender.parts([LOG]))
        self.hold()
        self.assert_seen()

    def assert_seen(self) -> None:
        """All bytes in order, but where it says how many were passed over; and never a zero of a hole."""
        rest, place = self.printed.whole, 0
        for line in self.lines:
            if passed := PASSED.fullmatch(line):
                place += _number(passed[1])
                continue
            text = line.removesuffix("…").encode()
            assert rest[place : place + len(text)] == text
            place += len(text)
            if not line.endswith("…"):  # else it was left out in the midst of it
                assert rest[place : place + 1] == b"\n"
                place += 1
        assert place == len(rest)
        place = came = 0
        for passed_by in [*LEFT_OUT.finditer(self.sent), None]:
            data = self.sent[came : passed_by.start() if passed_by else None]
            assert rest[place : place + len(data)] == data
            place += len(data) + (_number(passed_by[1]) if passed_by else 0)
            came = passed_by.end() if passed_by else 0
        assert place == len(rest)


def test_what_the_driver_is_sent_is_bounded_there_as_well(tmp_path: Path) -> None:
    told: list[str] = []
    keeper, printed = LogWriter(tmp_path, LogBounds(MOST, told.append)), Printed(tmp_path)
    for number in range(200):
        data = b"".join(b"line %06d\n" % (number * 1000 + i) for i in range(1000))
        printed.whole += data
        keeper.keep(LogGrown(LOG, data))
        assert printed.on_disk_bytes <= MOST
    assert len(printed.kept) == len(printed.whole)
    assert printed.kept.endswith(printed.whole[-TAIL:])
    assert told == [
        f"logs have reached launch.log_max_bytes={MOST}: from here on what lies between their first and last"
        " lines is left out of them"
    ]


def test_a_sender_that_was_passed_says_what_the_node_has_lost_too(tmp_path: Path) -> None:
    printed = Printed(tmp_path)
    sender, bound = LogSender(tmp_path, nodes=10**6), LogBound(printed.path, MOST)
    sender.follow(LOG)
    printed.print(6000, width=99)
    bound.hold()
    sender.skip(LOG, bound.end)
    sender.skip("of nobody.log", 100)
    data = b"".join(part.data for part in sender.parts([LOG]))
    assert data.endswith(printed.whole[-16 * KIB :])
    left_out = len(printed.whole) - 16 * KIB
    assert data.decode().startswith(
        f"\n… {left_out:,} bytes left out here; all but {bound.end:,} (launch.log_max_bytes) are in"
        f" {printed.path} on "
    )


def test_the_shortest_end_has_more_than_what_mlflow_gets() -> None:
    assert LEAST_LOG_BYTES // 2 > LOG_TAIL_BYTES
    assert LEAST_LOG_BYTES // 2 > log_transfer.BEHIND_BYTES, "so that a sender is not passed either"


def test_a_log_that_somebody_empties_begins_anew(tmp_path: Path) -> None:
    printed = Printed(tmp_path)
    bound = LogBound(printed.path, MOST)
    printed.print(5000, width=99)
    bound.hold()
    assert bound.end > HEAD
    printed.path.write_bytes(b"")
    printed.whole = b""
    printed.print(100, width=99)
    bound.hold()
    assert (bound.end, printed.kept) == (0, printed.whole)
    printed.print(5000, width=99)
    bound.hold()
    assert_as_it_should_be(printed, bound)


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    told: list[str] = []
    bounds = LogBounds(MOST, told.append)
    (tmp_path / "null.log").symlink_to(os.devnull)
    assert [bounds.hold(tmp_path / name) for name in ("null.log", "missing.log")] == [0, 0]
    assert told == []


@pytest.mark.parametrize("most", [None, 0, 10 * MIB])
def test_a_log_that_has_no_bound_or_keeps_to_it_grows(tmp_path: Path, most: int | None) -> None:
    printed, told = Printed(tmp_path), []
    printed.print(5000, width=99)
    assert LogBounds(most, told.append).hold(printed.path) == 0
    assert (printed.kept, told) == (printed.whole, [])


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_where_the_file_system_cannot_it_is_said_once_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    printed, told = Printed(tmp_path), []
    bounds = LogBounds(MOST, told.append)
    can = log_bound._punch
    monkeypatch.setattr(log_bound, "_punch", _raiser(number))
    for _ in range(3):
        printed.print(2000, width=99)
        assert bounds.hold(printed.path) == 0
    assert printed.kept == printed.whole
    assert told == [
        f"logs in {tmp_path} grow beyond launch.log_max_bytes={MOST}: nothing can be left out of them there "
        f"({os.strerror(number)}); watch that disk, or choose a run_root on another file system"
    ]
    monkeypatch.setattr(log_bound, "_punch", can)
    printed.print(1, width=99)
    assert bounds.hold(printed.path) > HEAD, "it is tried again"
    assert printed.on_disk_bytes <= MOST


def _raiser(number: int) -> Callable[[int, int, int], None]:
    def refuse(_fd: int, _begin: int, _end: int) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_hole_cannot_be_made_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The kernel's own refusal, by its number."""
    printed = Printed(tmp_path)
    fd = os.open(printed.path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor") as refused:
            log_bound._punch(fd, 0, 4096)
        assert refused.value.errno == errno.EBADF
    finally:
        os.close(fd)


def test_tools_of_every_day_find_their_way(tmp_path: Path) -> None:
    printed = Printed(tmp_path)
    bound = LogBound(printed.path, MOST)
    for _ in range(10):
        printed.print(2000, width=99)
        bound.hold()

    def run(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run("tail", "-n", "100", str(printed.path)).encode() == b"".join(
        printed.whole.splitlines(True)[-100:]
    )
    assert run("head", "-n", "100", str(printed.path)).encode() == b"".join(
        printed.whole.splitlines(True)[:100]
    )
    assert run("grep", "-a", "-c", "bytes of this log are left out here", str(printed.path)).strip() != "0"
    assert f"{printed.count - 1:099d}\n" == run("grep", "-a", f"{printed.count - 1:099d}", str(printed.path))
    copy = tmp_path / "copy.log"
    run("cp", str(printed.path), str(copy))
    assert copy.stat().st_blocks * 512 <= MOST, "cp keeps holes"
