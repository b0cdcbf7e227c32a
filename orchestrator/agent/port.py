"""A port for rank 0 to listen on, held until it does: a free one that nobody holds is soon somebody
else's."""

from __future__ import annotations

import contextlib
import socket


class HeldPort:
    """A TCP port of this node that the kernel gives to nobody, and that a server of ours can still listen on.

    A socket that is bound and does not listen keeps a port from all who ask for any, and from all who bind it
    without ``SO_REUSEADDR``. Those who set that, as torch's store does, may bind it too, and the first of
    them listens. So it stays bound for as long as ranks may start.
    """

    def __init__(self) -> None:
        self._socket = _bound()
        self.number = int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


def _bound() -> socket.socket:
    """Of both address families where there are both: torch's store listens on all addresses of either."""
    if socket.has_ipv6:
        with contextlib.suppress(OSError):  # IPv6 is off here
            return _bind(socket.AF_INET6)
    return _bind(socket.AF_INET)


def _bind(family: socket.AddressFamily) -> socket.socket:
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        holder.bind(("", 0))
    except OSError:
        holder.close()
        raise
    return holder
