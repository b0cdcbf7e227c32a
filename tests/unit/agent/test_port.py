"""The port that an agent chooses for rank 0 is still rank 0's when it listens."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from orchestrator.agent import port
from orchestrator.agent.port import HeldPort

# Takes and gives back whatever ports the kernel has to give, for listeners, for connections and by number.
GRABBER = """
import collections, contextlib, socket
listener = socket.create_server(("127.0.0.1", 0), backlog=512)
held = collections.deque()
print("grabbing", flush=True)
def grab(family, number):
    taken = socket.socket(family)
    held.append(taken)
    with contextlib.suppress(OSError):
        taken.bind(("", number))
        taken.listen()
    return taken.getsockname()[1]
while True:
    number = grab(socket.AF_INET, 0)
    for near in range(number - 3, number + 4):  # the kernel gives ports two by two
        grab(socket.AF_INET, max(1024, near))
    held.append(client := socket.socket())
    with contextlib.suppress(OSError):
        client.connect(listener.getsockname())
        held.append(listener.accept()[0])
    while len(held) > 400:
        held.popleft().close()
"""


def listens(number: int, family: socket.AddressFamily = socket.AF_INET6) -> socket.socket:
    """As torch's store does: all addresses, both families, SO_REUSEADDR."""
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("", number))
    server.listen()
    return server


@pytest.mark.real
def test_ten_thousand_choices_beside_a_process_that_grabs_ports() -> None:
    with subprocess.Popen([sys.executable, "-c", GRABBER], stdout=subprocess.PIPE, text=True) as grabber:
        assert grabber.stdout is not None
        try:
            assert grabber.stdout.readline() == "grabbing\n"
            for _ in range(10_000):
                held = HeldPort()
                listens(held.number, socket.AF_INET).close()
                held.close()
            assert grabber.poll() is None, "the grabber lives"
        finally:
            grabber.kill()


def test_a_held_port_is_nobody_else_s_and_the_store_s_again_and_again() -> None:
    held = HeldPort()
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", held.number))
    for family in (socket.AF_INET6, socket.AF_INET):
        if family is socket.AF_INET6 and not socket.has_ipv6:
            continue
        server = listens(held.number, family)
        with socket.create_connection(("127.0.0.1", held.number)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
        server.close()
    held.close()


def test_without_ipv6_a_port_is_held_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = port._bind

    def off(family: socket.AddressFamily) -> socket.socket:
        if family is socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return bind(family)

    monkeypatch.setattr(port, "_bind", off)
    held = HeldPort()
    listens(held.number, socket.AF_INET).close()
    held.close()
