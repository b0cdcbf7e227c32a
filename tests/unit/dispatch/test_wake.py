"""The daemon is woken by whoever writes something into the queue."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from orchestrator.dispatch.facts import NodeDrained
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.wake import NAME, Alarm, wake

FAR_S = 120.0


def test_who_calls_is_heard_at_once_in_a_folder_however_deep(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a folder of a long name"] * 8)
    folder.mkdir(parents=True)
    alarm = Alarm(folder)
    assert not alarm.wait(0.0)
    caller = threading.Timer(0.1, wake, [folder])
    begun_s = time.monotonic()
    caller.start()
    assert alarm.wait(FAR_S)
    assert time.monotonic() - begun_s < FAR_S / 2
    caller.join()
    for _ in range(1000):  # more than a socket keeps
        wake(folder)
    assert alarm.wait(FAR_S)
    assert not alarm.wait(0.0), "all that was said meanwhile is one call"
    alarm.close()


def test_nobody_minds_a_daemon_that_is_gone_and_the_next_one_is_heard(tmp_path: Path) -> None:
    wake(tmp_path)
    wake(tmp_path / "not there")
    Alarm(tmp_path).close()
    assert (tmp_path / NAME).exists(), "as a daemon that was killed leaves it"
    wake(tmp_path)
    alarm = Alarm(tmp_path)
    wake(tmp_path)
    assert alarm.wait(FAR_S)
    alarm.close()


def test_where_nothing_can_be_heard_the_time_passes(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    alarm = Alarm(tmp_path)
    begun_s = time.monotonic()
    assert not alarm.wait(0.05)
    assert time.monotonic() - begun_s >= 0.05
    alarm.close()


def test_what_others_write_into_the_books_wakes_it_and_what_it_writes_itself_does_not(tmp_path: Path) -> None:
    alarm = Alarm(tmp_path)
    with Store(tmp_path) as store:
        store.write("ada", 1.0, lambda _: [])
        store.write("daemon", 1.0, lambda _: [NodeDrained("node1")], epoch=0)
        assert not alarm.wait(0.0)
        store.write("ada", 1.0, lambda _: [NodeDrained("node1")])
        assert alarm.wait(FAR_S)
    alarm.close()
