"""A run is asked to stop by a line in a file, which its driver reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.driver import stop_file
from orchestrator.driver.stopping import exit_code
from orchestrator.errors import EXIT_TERMINATED, RunDirectoryError
from orchestrator.supervise.loop import StopRequest
from tests.support.receivers import until


def test_each_line_asks_once_and_those_of_an_earlier_driver_do_not(tmp_path: Path) -> None:
    stop, said = StopRequest(), list[str]()
    (tmp_path / "stop").write_text('{"by": "somebody long ago"}\n')
    with stop_file.asked_by_file(tmp_path, stop, said.append):
        assert (tmp_path / "stop").read_text() == ""
        stop_file.ask(tmp_path)
        until(lambda: stop.level == 1)
        assert stop.by.startswith("'orchestrator stop' of ")
        assert exit_code(stop) == EXIT_TERMINATED
        with (tmp_path / "stop").open("a") as file:
            file.write("not JSON, \x1b[2J but a line\nand one without an en")
        until(lambda: stop.level == 2)
    stop_file.ask(tmp_path)  # nobody looks any more
    assert (stop.level, said) == (2, [])


def test_what_a_name_may_not_do_to_a_terminal(tmp_path: Path) -> None:
    stop = StopRequest()
    with stop_file.asked_by_file(tmp_path, stop, print), (tmp_path / "stop").open("a") as file:
        file.write('{"by": "a\\u001b[2Jb\\nc"}\n')
        file.flush()
        until(lambda: stop.level == 1)
    assert stop.by == "'orchestrator stop' of ab c"


def test_a_driver_that_does_not_look_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"stop: missing, .* older version; send SIGTERM"):
        stop_file.ask(tmp_path)
    assert not (tmp_path / "stop").exists()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    other, said = tmp_path / "other", list[str]()
    other.write_text("mine")
    (tmp_path / "stop").symlink_to(other)
    with stop_file.asked_by_file(tmp_path, StopRequest(), said.append):
        pass
    assert other.read_text() == "mine"
    assert "will not reach this run" in said[0]
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        stop_file.ask(tmp_path)


def test_only_its_owner_may_ask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with stop_file.asked_by_file(tmp_path, StopRequest(), print):
            assert (tmp_path / "stop").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
