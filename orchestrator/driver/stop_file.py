"""How a run is asked to stop by somebody who cannot signal its driver: on another machine, say.

``RUN_DIR/stop`` is there from the run's start, empty; whoever may write it appends a line for each time that
he asks, and the driver reads it four times a second. A file that is there and is opened anew is up to date
over NFS, where one that was not there a moment ago may be missing for a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import papers
from orchestrator.errors import RunDirectoryError
from orchestrator.files import open_no_link
from orchestrator.supervise.loop import StopRequest
from orchestrator.text import clean
from orchestrator.users import user_name

NAME = "stop"
_LOOK_S = 0.25
_CLOSE_S = 5.0
# Nobody asks more often than this.
_MOST_BYTES = 1 << 16


def ask(run_dir: Path) -> None:
    """Ask the run's driver to stop; a second time, at once.

    Raises :class:`RunDirectoryError` where its driver does not look here, or this user may not ask.
    """
    path = run_dir / NAME
    line = json.dumps({"by": f"{user_name()} on {platform.node()}", "unix_s": time.time()}) + "\n"
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        raise RunDirectoryError(
            f"{path}: missing, so the run's driver does not look for it: it is of an older version; send"
            " SIGTERM to its process on its machine"
        ) from None
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: cannot be written ({error.strerror}); have the run's owner stop it, or mend that"
        ) from None


@contextmanager
def asked_by_file(run_dir: Path, stop: StopRequest, warn: Callable[[str], None]) -> Iterator[None]:
    """Pass on what is asked from here on; what was asked of an earlier driver is forgotten."""
    try:
        with open_no_link(run_dir / NAME, "a") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(0)
    except OSError as error:
        warn(f"'orchestrator stop' will not reach this run ({run_dir / NAME}: {error.strerror}); it goes on")
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(run_dir / NAME, stop, over), name="stop file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_CLOSE_S)


def _watch(path: Path, stop: StopRequest, over: threading.Event) -> None:
    heard = 0
    while not over.wait(_LOOK_S):
        lines: list[str] = []
        with contextlib.suppress(OSError, ValueError):  # it can be read again with the next look
            lines = papers.read_text(path, _MOST_BYTES).split("\n")[:-1]
        for line in lines[heard:]:
            stop.ask(_who(line))
        heard = max(heard, len(lines))


def _who(line: str) -> str:
    """Who asks, for people; whatever stands there, somebody who may write here has asked."""
    try:
        said = papers.json_of(line)
        name = said.get("by") if isinstance(said, dict) else None
    except ValueError:
        name = None
    return (
        f"'orchestrator stop' of {papers.one_line(clean(name))}" if isinstance(name, str) else "a stop file"
    )
