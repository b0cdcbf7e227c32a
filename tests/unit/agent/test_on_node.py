"""What an assignment becomes on a node, and how nodes find out what they share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.localize import (
    differences,
    identity,
    interface_of,
    interfaces,
    kill_process,
    leave_mark,
    moved,
    on_node,
    remove_mark,
    sees_mark,
)
from orchestrator.processes import start_of
from tests.support.assignments import assignment

NODE = {"lo": ["127.0.0.1", "::1"], "docker0": ["172.17.0.1"], "ens5": ["10.0.0.7", "fe80::1%ens5"]}


def test_the_interface_is_that_of_the_nodes_address() -> None:
    environment = {
        "GLOO_SOCKET_IFNAME": "{interface}",
        "NCCL_SOCKET_IFNAME": "={interface}",
        "OTHER": "as it was",
    }
    there = on_node(assignment(environment=environment), "/unused", NODE, "10.0.0.7")
    assert there.program.environment == {
        "GLOO_SOCKET_IFNAME": "ens5",
        "NCCL_SOCKET_IFNAME": "=ens5",
        "OTHER": "as it was",
    }


def test_an_ipv6_address_has_its_zone_after_a_percent_sign() -> None:
    assert interface_of("fe80::1", NODE) == "ens5"


def test_an_address_behind_nat_names_the_interfaces_and_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"10\.9\.9\.9 \(there are lo, docker0, ens5\); name the one .*\+env\.GLOO"
    ):
        on_node(assignment(environment={"GLOO_SOCKET_IFNAME": "{interface}"}), "/unused", NODE, "10.9.9.9")


def test_where_no_interface_is_asked_for_none_need_be_found() -> None:
    assert on_node(assignment(), "/unused", {}, "10.9.9.9") == assignment()


def test_this_machine_has_a_loopback_interface() -> None:
    assert interface_of("127.0.0.1", interfaces()) == "lo"


def test_paths_below_the_working_directory_move_and_the_run_directory_stays() -> None:
    there = on_node(assignment(working_dir="/home/me/project"), "/ray/pkg", NODE, "10.0.0.7")
    assert (there.program.script, there.program.cwd) == ("/ray/pkg/train/main.py", "/ray/pkg")
    assert there.program.corpus == ["/ray/pkg/books", "relative", "/data/all"]
    assert there.program.args == ["--data=/ray/pkg/books,stdlib", "--dir={run_dir}", "--lr=1e-3", "plain"]
    assert there.places.run_dir == "/home/me/project/runs/r"
    assert there.places.checkpoint_dir == "/home/me/project/runs/r/checkpoints"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", "/z"),
        ("/a/b/c", "/z/c"),
        ("/a/bc", "/a/bc"),
        ("/a", "/a"),
        ("a/b", "a/b"),
        ("/x/a/b", "/x/a/b"),
    ],
)
def test_only_what_is_below_moves(path: str, expected: str) -> None:
    assert moved(path, "/a/b", "/z") == expected


@given(st.text("ab/", max_size=8))
def test_moving_there_and_back_changes_nothing(rest: str) -> None:
    path = f"/from/{rest}"
    assert moved(moved(path, "/from", "/to/x"), "/to/x", "/from") == path


def test_a_mark_is_seen_in_the_same_folder_only(tmp_path: Path) -> None:
    ours, other = tmp_path / "a" / "ours", tmp_path / "other"
    other.mkdir()
    mark = leave_mark(ours)
    (tmp_path / "link").symlink_to(ours)
    assert sees_mark(ours, mark)
    assert sees_mark(tmp_path / "link", mark)
    assert not sees_mark(other, mark)
    assert not sees_mark(tmp_path / "absent", mark)
    assert leave_mark(ours) != mark
    remove_mark(ours, mark)
    assert not sees_mark(ours, mark)
    remove_mark(ours, mark)


def test_a_working_directory_that_is_missing_on_the_node_is_a_difference(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.touch()
    problems = differences(assignment(script=str(script), cwd=str(tmp_path / "gone"), corpus=[]))
    assert problems == [
        f"job.cwd: no folder {tmp_path}/gone; make it there, or ship it with launch.working_dir"
    ]


def test_a_process_is_killed_and_not_whoever_has_its_number_now() -> None:
    assert identity() == {"pid": os.getpid(), "start": start_of()}
    with subprocess.Popen(["sleep", "100"]) as process:
        start = start_of(process.pid)
        kill_process(process.pid, f"{start}0")
        assert process.poll() is None
        kill_process(process.pid, start)
        assert process.wait() == -9
    kill_process(process.pid, start)
