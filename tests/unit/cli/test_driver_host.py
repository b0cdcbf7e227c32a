"""When a host of drivers does not fork any more."""

from __future__ import annotations

import json
import os
import socket

import pytest

from orchestrator.cli import driver_host
from orchestrator.driver.driver_host import READY


def test_a_host_whose_code_has_changed_on_the_disk_says_so_and_forks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it forked would tell nodes the hash of code that it does not run."""
    hashes = iter(["as imported", "as it is now"])
    monkeypatch.setattr(driver_host, "own_sha256", lambda: next(hashes))
    monkeypatch.setattr(driver_host, "_OF_DRIVERS", ())
    monkeypatch.setattr(driver_host, "_compose_once", lambda: None)
    monkeypatch.setattr(driver_host.signal, "signal", lambda *_: None)
    monkeypatch.setattr(driver_host.ray_env, "prepare_to_attach", lambda _: None)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it was forked"))
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its, open(os.devnull) as log:
        socket.send_fds(ours, [b"{}"], [log.fileno()])
        assert driver_host.main(its, "127.0.0.1:1") == 0
        assert ours.recv(1000) == READY
        answer = json.loads(ours.recv(1000))
    assert answer == {"pid": None, "why": "our code has changed on the disk"}
