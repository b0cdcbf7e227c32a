"""An actor of ours ends with its raylet, also where nobody buries that."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from tests.support.folders import PROJECT
from tests.support.processes import end
from tests.support.rank_harness import is_gone, wait_until

pytestmark = pytest.mark.real

ACTOR = """
import os, time
from orchestrator.agent.raylet import end_with_raylet

end_with_raylet(look_s=0.01)
time.sleep(0.1)
print(os.getpid(), flush=True)
time.sleep(300)
"""
RAYLET = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {ACTOR!r}]); time.sleep(300)"


def test_it_ends_with_a_raylet_that_nobody_buries() -> None:
    root = PROJECT
    with subprocess.Popen(
        [sys.executable, "-c", RAYLET], cwd=root, stdout=subprocess.PIPE, text=True
    ) as raylet:
        try:
            assert raylet.stdout is not None
            actor = int(raylet.stdout.readline())
            assert not is_gone(actor), "as long as its raylet is there it stays"
            raylet.kill()
            assert wait_until(lambda: is_gone(actor))
            assert psutil.Process(raylet.pid).status() == psutil.STATUS_ZOMBIE, (
                "its number is in use to the end"
            )
        finally:
            raylet.kill()
            if not is_gone(actor):
                end(psutil.Process(actor))
