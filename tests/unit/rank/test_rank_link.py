"""The tie between rank and agent, and what the launchers are given and refuse."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import ExecLauncher
from orchestrator.rank.messages import Heartbeat, ProbeFailed, decode
from orchestrator.rank.spec import RankSpec
from tests.support.folders import PROJECT, SCRIPTS
from tests.support.rank_harness import Bench, environment, is_gone, wait_until


@pytest.mark.real
@pytest.mark.parametrize("kind", ["exec", "zygote"])
def test_nothing_outlives_a_killed_agent(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "agent.py"), kind, str(tmp_path)]
    env = environment(PYTHONPATH=str(PROJECT))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pids = [int(word) for word in agent.stdout.readline().split()]
        assert len(pids) == (8 if kind == "exec" else 9)
        assert not any(is_gone(pid) for pid in pids)
        agent.kill()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids))


@pytest.mark.real
def test_a_sender_never_waits_for_the_agent(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    life_read, life_write = os.pipe()
    command = [sys.executable, str(SCRIPTS / "talks.py"), str(theirs.fileno()), str(life_read)]
    with subprocess.Popen(
        command,
        env=environment(PYTHONPATH=str(PROJECT)),
        pass_fds=(theirs.fileno(), life_read),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as talker:
        theirs.close()
        os.close(life_read)
        assert talker.stdin is not None
        assert talker.stdout is not None
        assert float(talker.stdout.readline()) < 5.0
        time.sleep(2.5)  # heartbeats fall due, and are dropped
        talker.stdin.write("\n")
        talker.stdin.close()
        read = b"".join(iter(lambda: ours.recv(1 << 16), b""))
        ours.close()
        os.close(life_write)
    said = [decode(line) for line in read.splitlines()]
    assert [one.where for one in said if isinstance(one, ProbeFailed)] == [
        str(number) for number in range(20_000)
    ]
    assert len([one for one in said if isinstance(one, Heartbeat)]) <= 2
    assert {type(one) for one in said} <= {ProbeFailed, Heartbeat}


def test_a_specification_survives_json_and_refuses_nonsense(tmp_path: Path) -> None:
    spec = RankSpec(1, 0, 2, "t", "a.py", ["x"], "/", {"A": "ä"}, "/tmp/log")
    assert RankSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="rank 2 does not exist in a world of 2"):
        RankSpec(2, 0, 2, "t", "a.py", [], "/", {}, "/tmp/log")
    with pytest.raises(ValueError, match="log_path is 'log'"):
        RankSpec(1, 0, 2, "t", "a.py", [], "/", {}, "log")


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    bench = Bench(ExecLauncher(python="/nowhere/python"), tmp_path, environment())
    with pytest.raises(RankStartError, match=r"rank 0 could not be started.*/nowhere/python"):
        bench.start("a.py")
