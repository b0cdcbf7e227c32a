"""What the driver of a job of the queue sets up before it does what its words say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli import cli, queued_driver
from orchestrator.dispatch.driver_files import DriverFiles, DriverOrder
from orchestrator.driver import sharing_sink
from orchestrator.fleet.jobs import JobState


class Books:
    """Those of a queue in which a job is about to start."""

    def __init__(self, _folder: Path) -> None:
        self._entry = SimpleNamespace(
            job=SimpleNamespace(run_name="a", epoch=3, state=JobState.STARTING),
            key="a",
        )

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *_: object) -> None: ...

    def entry(self, _key: str) -> SimpleNamespace:
        return self._entry


# The lock is let go of by the end of the process, and not before.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_its_run_is_told_by_the_process_that_all_of_the_queue_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[list[str], Path | None]] = []

    def run() -> int:
        called.append((sys.argv[1:], sharing_sink._folder))
        return 7

    monkeypatch.setattr(sharing_sink, "_folder", None)
    monkeypatch.setattr(sys, "argv", ["queued_driver"])
    monkeypatch.setattr(queued_driver, "Store", Books)
    monkeypatch.setattr(cli, "main", run)
    files = DriverFiles(tmp_path / "fleet", "a")
    files.write_order(DriverOrder(3, ("job=script", "run_name=a")))
    assert queued_driver.main(tmp_path / "fleet", "a", 3) == 7
    assert called == [(["job=script", "run_name=a"], tmp_path / "fleet")]
    end = files.end()
    assert end is not None
    assert (end.epoch, end.code) == (3, 7)
