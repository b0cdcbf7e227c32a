"""Ports for what tests start."""

from __future__ import annotations

import random
import socket

# Above those of Ray's workers, below those that the kernel gives to whoever connects or asks for any.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens.

    One that the kernel chooses may be taken by a connection of another suite before it is used. By chance and
    not in order, so that suites beside each other do not try the same ones; a seed of the tests' own changes
    nothing.
    """
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
