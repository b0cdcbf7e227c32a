"""Agents ahead of their run, without Ray: whose processes are there, and which adoptions count."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from orchestrator.cluster.warm import spare
from orchestrator.cluster.warm.spare import Build, Process
from orchestrator.processes import start_of


@pytest.fixture
def on_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is on the node `here`."""

    class Context:
        def get_node_id(self) -> str:
            return "here"

    monkeypatch.setattr(spare.ray, "get_runtime_context", Context)


def test_the_end_of_a_process_is_seen_at_once_and_only_its_own(on_node: None) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        there = Process("here", child.pid, start_of(child.pid))
        later = replace(there, start=f"{there.start}0")
        ended, other = spare._EndOf(there), spare._EndOf(later)
        assert (there.is_alive(), later.is_alive(), ended.within(0.0)) == (True, False, False)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert ended.within(60.0)
        assert not other.within(0.0), "another has its number by now: the placement group will tell"
    assert not there.is_alive()


def test_a_process_of_another_node_is_not_looked_for_here(on_node: None) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        ended = spare._EndOf(Process("there", child.pid, start_of(child.pid)))
    assert not ended.within(0.0)


def test_a_build_is_the_one_that_the_plan_tells() -> None:
    here = Build.here()
    assert Build.of({"orchestrator sha256": here.sha256}) == here
    assert Build.of({"orchestrator sha256": "of what is on the disk now"}) != here


class Group:
    id = "the run's"


@dataclass
class Agent:
    """Notes for whom it is to end."""

    released: list[Any] = field(default_factory=list)

    @property
    def release(self) -> Any:
        class Method:
            remote = self.released.append

        return Method


@pytest.mark.parametrize(
    ("answer", "is_taken", "is_released"),
    [
        (True, True, False),
        (False, False, False),
        (GetTimeoutError("busy"), False, True),
        (RayTaskError("adopt", "no such class here", ImportError("no such class here")), False, True),
        (ActorDiedError(), False, False),
    ],
)
def test_what_is_no_adoption_is_undone(
    monkeypatch: pytest.MonkeyPatch, answer: Any, is_taken: bool, is_released: bool
) -> None:
    def get(_answer: object, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(spare.ray, "get", get)
    agent, group = Agent(), Group()
    assert spare._took(agent, object(), group) is is_taken  # type: ignore[arg-type]
    assert agent.released == ([group] if is_released else [])
