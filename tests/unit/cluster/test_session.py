"""A Ray of our own: what is tried again, and what is left when it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from orchestrator.cluster import session
from orchestrator.cluster.warm.head import stop_sessions
from orchestrator.errors import ClusterUnreachable
from tests.support.rank_harness import is_gone, wait_until

CONTEXT = SimpleNamespace(dashboard_url=None, address_info={"address": "127.0.0.1:1", "session_dir": "/x"})


SLEEPS = [sys.executable, "-c", "import time; time.sleep(300)"]


class Ray:
    """Starts a process as Ray does, and fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.started: list[subprocess.Popen[bytes]] = []
        self.shutdowns = 0

    def init(self, *_words: Any, **_settings: Any) -> Any:
        text = (
            "import signal, time; print(sorted(signal.pthread_sigmask(0, ())), flush=True); time.sleep(300)"
        )
        self.started.append(subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE))
        if len(self.started) <= self.failures:
            raise Exception("The current node timed out during startup. This could happen")
        return CONTEXT

    def shutdown(self) -> None:
        self.shutdowns += 1


def ray(monkeypatch: pytest.MonkeyPatch, failures: int) -> Ray:
    fake = Ray(failures)
    monkeypatch.setattr(session.ray, "init", fake.init)
    monkeypatch.setattr(session.ray, "shutdown", fake.shutdown)
    return fake


def all_gone(fake: Ray) -> bool:
    pids = [one.pid for one in fake.started]
    found = wait_until(lambda: all(is_gone(pid) for pid in pids))
    for one in fake.started:
        one.wait()
        assert one.stdout is not None
        one.stdout.close()
    return found


def test_a_start_that_took_too_long_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ray(monkeypatch, failures=1)
    with session.connect(None, cpus=2, dashboard=False):
        assert is_gone(fake.started[0].pid)
        assert not is_gone(fake.started[1].pid)
    assert all_gone(fake)


def test_ray_is_told_what_a_connection_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, told = ray(monkeypatch, failures=0), []
    init = session.ray.init

    def listening(*words: Any, **settings: Any) -> Any:
        told.append(settings["job_config"].metadata)
        return init(*words, **settings)

    monkeypatch.setattr(session.ray, "init", listening)
    with session.connect(None, cpus=2, dashboard=False, about={"run": "night"}):
        pass
    with session.connect(None, cpus=2, dashboard=False):
        pass
    assert told == [{"run": "night"}, {}]
    assert all_gone(fake)


def test_one_that_fails_again_is_told_in_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ray(monkeypatch, failures=2)
    with (
        pytest.raises(
            ClusterUnreachable, match="a local Ray cluster did not start: The current node timed out"
        ),
        session.connect(None, cpus=2, dashboard=False),
    ):
        pass
    assert len(fake.started) == 2
    assert all_gone(fake)


def test_what_we_start_of_it_does_not_hear_what_asks_the_run_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ray(monkeypatch, failures=0)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with session.connect(None, cpus=2, dashboard=False, unheard=[signal.SIGTERM, signal.SIGUSR1]):
        stdout = fake.started[0].stdout
        assert stdout is not None
        assert stdout.readline().decode().count("SIG") == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert all_gone(fake)


def test_what_another_thread_starts_meanwhile_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's process is started by a thread, whenever MLflow answers."""
    fake, others = ray(monkeypatch, failures=0), []
    init = session.ray.init

    def init_beside_another(*words: Any, **settings: Any) -> Any:
        thread = threading.Thread(target=lambda: others.append(subprocess.Popen(SLEEPS)))
        thread.start()
        thread.join()
        return init(*words, **settings)

    monkeypatch.setattr(session.ray, "init", init_beside_another)
    with session.connect(None, cpus=2, dashboard=False):
        assert os.getsid(others[0].pid) == os.getsid(0)
    with others[0] as other:
        assert other.poll() is None
        other.kill()
    assert all_gone(fake)


def test_whoever_has_the_number_of_one_that_ended_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ray(monkeypatch, failures=0)
    with subprocess.Popen(SLEEPS, start_new_session=True) as other:
        with session.connect(None, cpus=2, dashboard=False):
            (first,) = fake.started
            first.kill()
            first.wait()
            stale = psutil.Process(other.pid)
            monkeypatch.setattr(stale, "_create_time", 1.0, raising=False)
            monkeypatch.setattr(stale, "_ident", (other.pid, 1.0))
            assert not stale.is_running(), "as psutil sees one whose number another process has"
            stop_sessions([stale])
        assert other.poll() is None
        other.kill()
    assert all_gone(fake)
