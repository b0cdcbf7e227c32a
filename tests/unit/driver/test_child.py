"""A process of our own is asked: whatever becomes of it, the program is told in one line, and nothing is
left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import orchestrator as orc
from orchestrator.driver import child

Interpreter = Callable[[str], None]


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    """Makes the child this script of bash; ``$3`` is the descriptor for its answer."""

    def make(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


def test_the_answer_comes_with_the_child(interpreter: Interpreter) -> None:
    interpreter("""read told; echo '{"path": "x"}' >&$3""")
    process, answer = child.ask({"a": 1}, 60.0)
    assert (answer, process.wait(60)) == ({"path": "x"}, 0)


def test_one_that_ends_without_a_word_and_hears_nothing_is_an_error(interpreter: Interpreter) -> None:
    interpreter("exit 1")
    with pytest.raises(orc.OrchestratorError, match="ended before it had begun"):
        child.ask({"config": "x" * (1 << 20)}, 60.0)


def test_an_error_is_raised_as_what_it_was(interpreter: Interpreter) -> None:
    interpreter("""echo '{"error": "ClusterError", "message": "no"}' >&$3""")
    with pytest.raises(orc.ClusterError, match="no"):
        child.ask({}, 60.0)


def test_one_that_does_not_answer_is_ended(interpreter: Interpreter, tmp_path: Path) -> None:
    interpreter(f"echo $$ > {tmp_path}/pid; exec sleep 600")
    with pytest.raises(
        orc.RunDirectoryError, match=r"gave no answer within 2 s; is the machine overloaded\?"
    ):
        child.ask({}, 2.0)
    pid = tmp_path / "pid"
    assert not pid.exists() or not psutil.pid_exists(int(pid.read_text()))


def test_an_interrupt_ends_what_has_begun(
    interpreter: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"trap 'touch {tmp_path}/undone; exit 0' TERM; touch {tmp_path}/begun"
    interpreter(f"{told}; while :; do sleep 0.05; done")

    def interrupted(*_args: object) -> None:
        while not (tmp_path / "begun").exists():
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.ask({}, 60.0)
    assert (tmp_path / "undone").exists()
