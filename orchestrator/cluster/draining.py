"""Which nodes Ray has been told to empty: by an autoscaler, a cloud that takes a machine back, or a person.

No public API of Ray tells it. This is the one place that asks Ray's own state, and
`tests/unit/cluster/test_draining.py` holds the name that it asks by.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import ray

ASK_S = 2.0
_LEAVE_S = 2.0


def draining_nodes() -> dict[str, float | None]:
    """Ids of the nodes that are being drained and still there; until when (Unix time), None where nobody set
    an end.

    On such a node Ray starts no actor and no task any more, nor places a bundle; what runs there goes on. It
    raises what Ray does when its control store does not answer.
    """
    ends_ms = ray._private.state.state.get_draining_nodes()
    return {node: end_ms / 1000 if end_ms else None for node, end_ms in ends_ms.items()}


class DrainWatch:
    """Asks again and again, in a thread: a control store that does not answer holds nobody else up."""

    def __init__(
        self, ask: Callable[[], dict[str, float | None]] = draining_nodes, ask_s: float = ASK_S
    ) -> None:
        self._ask, self._ask_s = ask, ask_s
        self._ends: dict[str, float | None] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="drain watch", daemon=True)

    def start(self) -> None:
        """From now on; more than once is once."""
        if self._thread.ident is None:
            self._thread.start()

    def draining(self, node_id: str) -> bool:
        """Whether a node was being drained when Ray last answered."""
        return node_id in self._ends

    def left_s(self, node_id: str) -> float | None:
        """What is left to a node until it may be gone; None where nobody set an end."""
        end_s = self._ends.get(node_id)
        return None if end_s is None else end_s - time.time()

    def close(self) -> None:
        """Ask no more: before the connection to Ray is closed."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_LEAVE_S)

    def _watch(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(Exception):  # asked again
                self._ends = self._ask()
            self._ended.wait(self._ask_s)
