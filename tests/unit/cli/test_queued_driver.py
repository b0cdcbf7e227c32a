"""What the driver of a job of the queue sets up before it does what its words say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli import cli, queued_driver
from orchestrator.dispatch.driver_files import DriverFiles
from orchestrator.driver import sharing_sink
from orchestrator.fleet.jobs import JobState


class Books:
    """Those of a queue in which a job is about to start."""

    nodes: dict[object, object] = {}  # noqa: RUF012

    def __init__(self, _folder: Path) -> None:
        self._entry = SimpleNamespace(
            job=SimpleNamespace(
                run_name="a", epoch=3, state=JobState.STARTING, placement=SimpleNamespace(pool="h100")
            ),
            key="a",
        )

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *_: object) -> None: ...

    def entry(self, _key: str) -> SimpleNamespace:
        return self._entry

    def read(self) -> Books:
        return self


# The lock is let go of by the end of the process, and not before.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_its_run_is_told_by_the_process_that_all_of_the_queue_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[list[str], Path | None]] = []
    fleet = SimpleNamespace(pool=lambda _name: SimpleNamespace(token_file=""))

    def run() -> int:
        called.append((sys.argv[1:], sharing_sink._folder))
        return 7

    monkeypatch.setattr(sharing_sink, "_folder", None)
    monkeypatch.setattr(sys, "argv", ["queued_driver"])
    monkeypatch.setattr(queued_driver, "Store", Books)
    monkeypatch.setattr(queued_driver, "read_fleet_file", lambda _root: fleet)
    monkeypatch.setattr(queued_driver, "start_words", lambda *_: ("job=script", "run_name=a"))
    monkeypatch.setattr(cli, "main", run)
    assert queued_driver.main(tmp_path, tmp_path / "fleet", "a", 3) == 7
    assert called == [(["job=script", "run_name=a"], tmp_path / "fleet")]
    end = DriverFiles(tmp_path / "fleet", "a").end()
    assert end is not None
    assert (end.epoch, end.code) == (3, 7)
