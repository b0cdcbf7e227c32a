"""Where rank 0's store listens: at the address of the rendezvous, and not at every address of the node.

Torch's store has no authentication, and it listens on all interfaces whatever host it is given: on a node of
several networks everybody could read and write what the ranks agree on. It takes a socket that is bound
already, which is handed to it here. What gloo and NCCL open afterwards is theirs.
"""

from __future__ import annotations

import contextlib
import os
import socket
from types import ModuleType
from typing import Any

from orchestrator.rank.probes.import_hook import when_imported


def listen_at_own_address() -> None:
    """Call in a rank, in its environment and before its script."""
    if os.environ.get("RANK") == "0":
        when_imported("torch.distributed.rendezvous", _hand_over_socket)


def _hand_over_socket(module: ModuleType) -> None:
    store_of = module.TCPStore

    def tcp_store(*args: Any, **settings: Any) -> Any:
        here = (settings.get("host_name"), str(settings.get("port")))
        ours = here == (os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"))
        if not ours or not settings.get("is_master") or settings.get("master_listen_fd") is not None:
            return store_of(*args, **settings)
        with contextlib.ExitStack() as stack:
            listener = _listener(str(here[0]), int(settings["port"]))
            if (
                listener is None
            ):  # the store of an earlier process group is there still: torch's own race, left as it is
                return store_of(*args, **settings)
            stack.callback(listener.close)
            store = store_of(*args, **settings, master_listen_fd=listener.fileno())
            listener.detach()  # torch's from here on
            return store

    module.TCPStore = tcp_store  # type: ignore[attr-defined]


def _listener(host: str, port: int) -> socket.socket | None:
    """A socket that is bound to this address alone; None where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError:
        return None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
        return listener
    except OSError:
        listener.close()
        return None
