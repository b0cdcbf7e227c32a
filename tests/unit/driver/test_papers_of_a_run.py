"""What is written into a run's directory before it starts."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from orchestrator.driver.preflight import plan_of
from orchestrator.driver.run import write_papers
from orchestrator.errors import RunDirectoryError
from orchestrator.ledger.run_directory import RunDirectory
from tests.unit.config.test_conf import composed


def test_a_disk_without_room_refuses_the_run_before_it_starts(tmp_path: Path) -> None:
    config = composed("job=tiny_gpt", "gpu=cpu", f"run_root={tmp_path}")
    plan = plan_of(config, observed=False)
    directory = RunDirectory(tmp_path / "full")
    directory.hold()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))  # as a full disk: no more than that
        with pytest.raises(
            RunDirectoryError, match=r"full: cannot be written .*; make room there, or set run"
        ):
            write_papers(config, plan, "full", directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        directory.release()
    directory.hold()
    write_papers(config, plan, "full", directory)  # once there is room the same name will do
    directory.release()
