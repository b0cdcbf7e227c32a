"""Drivers are forked where their runs attach to the Ray that their host was made ready for."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch import driver_starts
from orchestrator.dispatch.driver_starts import DriverStarts


class Recorder:
    """In place of hosts of drivers and of processes: says what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        said = self.said

        class Host:
            def __init__(self, address: str, patience_s: float) -> None:
                assert patience_s == 0.0, "the daemon has others to look after"
                self.address = address
                said.append(f"host {address}")

            def start(self, module: str, words: list[str], cwd: Path, log: int) -> str:
                said.append(f"fork {self.address}")
                return "forked"

            def close(self) -> None:
                said.append(f"close {self.address}")

        monkeypatch.setattr(driver_starts, "DriverHost", Host)
        monkeypatch.setattr(driver_starts, "spawned", lambda *_: said.append("spawn"))

    def new(self) -> list[str]:
        told, self.said[:] = list(self.said), []
        return told


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_each_driver_is_started_for_the_ray_that_it_attaches_to(recorder: Recorder, tmp_path: Path) -> None:
    addresses = ["127.0.0.1:1"]
    starts = DriverStarts(lambda: addresses[-1] if addresses else None, lambda: {"h100"})

    def start(*job: str, pool: str = "h100") -> list[str]:
        starts.start("module", [], tmp_path, 0, pool, job)
        return recorder.new()

    starts.make_ready()
    assert recorder.new() == ["host 127.0.0.1:1"]
    assert start("job=tiny_gpt") == ["fork 127.0.0.1:1"]
    assert start("ray_address=127.0.0.1:1") == ["fork 127.0.0.1:1"]
    assert start("ray_address=127.0.0.1:2") == ["spawn"]
    assert start(pool="a100") == ["spawn"], "it is on a Ray of its own"
    addresses.append("127.0.0.1:2")  # `down`, and another `up`
    assert start() == ["close 127.0.0.1:1", "host 127.0.0.1:2", "fork 127.0.0.1:2"]
    addresses.clear()
    assert start() == ["spawn"]
    starts.make_ready()
    addresses.append("127.0.0.1:2")
    assert start() == ["fork 127.0.0.1:2"], "it was kept for the same Ray to come back"
    starts.close()
    assert recorder.new() == ["close 127.0.0.1:2"]
