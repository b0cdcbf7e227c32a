"""A process of our own for what a program asks: its interrupt key, its signals, its folder and its Ray stay
its own.

What the child is told may hold secrets, and goes by its standard input; its one answer comes by a descriptor
of its own. ``cli/child.py`` is the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from typing import IO, Any

from orchestrator import errors
from orchestrator.errors import OrchestratorError, RunDirectoryError


def ask(payload: dict[str, Any], timeout_s: float) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a child and wait for its answer; returns both.

    The child is in a session of its own, so that the terminal's Ctrl-C is not its. Raises the error that it
    answers with, and :class:`RunDirectoryError` where it does not answer in time; it has ended then.
    """
    ours, its = os.pipe()
    with open(ours, "rb", buffering=0) as answers:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli.child", str(its)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(its,),
                start_new_session=True,
            )
        finally:
            os.close(its)
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError), child.stdin as stdin:  # one that has ended answers so
                stdin.write(json.dumps(payload).encode())
            answer = _answer(answers, timeout_s)
        except BaseException:  # an interrupt, say: what has begun is undone
            child.terminate()
            child.wait()
            raise
    if answer is None:
        child.kill()
        child.wait()
        raise RunDirectoryError(
            f"our own process gave no answer within {timeout_s:g} s; is the machine overloaded?"
        )
    if "error" in answer:
        child.wait()
        kind = getattr(errors, answer["error"], OrchestratorError)
        raise kind(answer["message"])
    return child, answer


def _answer(answers: IO[bytes], timeout_s: float) -> dict[str, Any] | None:
    """The child's one line; an error where it ended without."""
    deadline_s, line = time.monotonic() + timeout_s, b""
    while not line.endswith(b"\n"):
        if not select.select([answers], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            return None
        if not (read := answers.read(1 << 16)):
            return {
                "error": OrchestratorError.__name__,
                "message": "our own process ended before it had begun",
            }
        line += read
    answer_line: dict[str, Any] = json.loads(line)
    return answer_line
