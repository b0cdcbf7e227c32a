"""What Ray starts for us ends with the raylet that started it, whoever buries that."""

from __future__ import annotations

import os
import threading
import time

_LOOK_S = 1.0


def end_with_raylet(look_s: float = _LOOK_S) -> None:
    """From here on, to be called by an actor that is started.

    Ray's workers see to that as well, by looking whether the raylet's number is in use. Where the first
    process of a container buries nobody (`sleep infinity`), it is so for ever, and an agent would keep ranks
    on the GPUs of a node that the run has given up. Whose parent has ended gets another one at once, buried
    or not.
    """
    raylet = os.getppid()
    threading.Thread(target=_watch, args=(raylet, look_s), name="raylet's end", daemon=True).start()


def _watch(raylet: int, look_s: float) -> None:
    while os.getppid() == raylet:
        time.sleep(look_s)
    os._exit(1)  # ranks, writers and zygotes end with us
