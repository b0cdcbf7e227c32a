"""A cluster in the hand of a program: what its child answers, and what happens at the end of ``with``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

import orchestrator as orc
from orchestrator.driver import warm_handle


class Child:
    """Asked, and answers by itself what the real one would."""

    def __init__(self, began: bool = True, refuses_down: bool = False) -> None:
        self.asked: list[str] = []
        self.began, self.refuses_down = began, refuses_down

    def ask(self, told: dict[str, object], _timeout_s: float) -> tuple[Child, dict[str, object]]:
        verb = str(told["cluster"])
        self.asked.append(f"{verb} --force" if told.get("force") else verb)
        if verb == "down" and self.refuses_down:
            raise orc.ClusterError("runs are on it (night)")
        return self, {"notes": [verb], "seen": {"address": "127.0.0.1:1"}, "began": self.began}

    def wait(self) -> None:
        self.asked.append("waited")


def with_child(monkeypatch: pytest.MonkeyPatch, child: Child) -> None:
    monkeypatch.setattr(warm_handle, "ask", child.ask)


def test_what_was_begun_is_ended_and_every_child_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with_child(monkeypatch, child := Child())
    with orc.warm_cluster(orc.compose()) as cluster:
        assert cluster.address == "127.0.0.1:1"
        assert cluster.status()["address"] == "127.0.0.1:1"
    assert child.asked == ["up", "waited", "status", "waited", "down", "waited"]
    assert (cluster.address, cluster.notes) == (None, ["up", "status", "down"])


def test_what_was_up_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with_child(monkeypatch, child := Child(began=False))
    with orc.warm_cluster(orc.compose()):
        pass
    assert child.asked == ["up", "waited"]


def test_runs_that_are_on_it_are_not_ended_and_hide_no_error_of_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_child(monkeypatch, Child(refuses_down=True))
    with pytest.raises(orc.ClusterError, match="runs are on it"), orc.warm_cluster(orc.compose()):
        pass
    with pytest.raises(ZeroDivisionError) as error, orc.warm_cluster(orc.compose()):
        1 / 0  # noqa: B018
    assert error.value.__notes__ == ["the cluster stays up: runs are on it (night)"]


def test_down_may_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    with_child(monkeypatch, child := Child(refuses_down=False))
    with orc.warm_cluster(orc.compose()) as cluster:
        cluster.down(force=True)
    assert child.asked == ["up", "waited", "down --force", "waited"]


@pytest.mark.real
def test_a_real_one_is_up_meanwhile_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is not in this process, which keeps its signals, its folder and its environment."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    here = Path(orc.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", str(here))
    before = (dict(os.environ), os.getcwd(), [signal.getsignal(number) for number in signal.valid_signals()])
    had_ray = "ray" in sys.modules
    config = orc.compose("job=tiny_gpt")
    with pytest.raises(orc.ClusterError, match="no cluster is up"):
        orc.warm_cluster(config).status()
    with orc.warm_cluster(config) as cluster:
        assert cluster.address
        port = int(cluster.address.rpartition(":")[2])
        assert cluster.status()["nodes"][0]["zygotes"][0]["state"] == "ready"
        with orc.warm_cluster(config) as again:
            assert again.address == cluster.address
        assert cluster.status()["kept"]
    assert any("stopped, nothing is left" in note for note in cluster.notes)
    assert not [
        one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port
    ]
    assert ("ray" in sys.modules) == had_ray
    assert before == (
        dict(os.environ),
        os.getcwd(),
        [signal.getsignal(number) for number in signal.valid_signals()],
    )
