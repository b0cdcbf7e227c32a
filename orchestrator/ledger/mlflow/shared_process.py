"""A sink that a driver shares with others, as the driver sees it: a process that tells MLflow of this run.

Whoever needs it first starts it, and hands it a socket on which it listens already: so there is one at a
time, and nobody waits until it has imported MLflow. It ends by itself when nobody is connected any more.

| who ends | what follows |
|---|---|
| a driver | its connection, by which the sink knows; it tells MLflow what is left in the journal |
| the sink | every connection; each driver looks for another after a second, the first of them starts it |
| a sink that others believe dead and is not | nothing twice: a lock in each run's directory admits one |

The socket's name is none in any folder, so nothing is left of it. Those who share a sink have the same
folder (a queue's), the same MLflow with the same credentials, the same interpreter and code of ours: what of
this differs is in the name, under a key that lies in the folder, so the name says nothing of it to others.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import papers
from orchestrator.files import make_folder
from orchestrator.ledger.mlflow.shared_messages import (
    MOST_LINE_BYTES,
    Done,
    Follow,
    Follows,
    GiveUp,
    Said,
    from_driver,
    from_sink,
)
from orchestrator.ledger.mlflow.sink_process import GONE
from orchestrator.ledger.mlflow.uri import sqlite_path
from orchestrator.papers import PaperError
from orchestrator.rank.launch.wire import peer_uid

MODULE = "orchestrator.ledger.mlflow.shared_sink"
KEY = "mlflow_sink.key"
_KEY_BYTES = 32
# What MLflow's client, its drivers of databases and its stores of artifacts go by.
_DECIDES = ("MLFLOW_", "DATABRICKS_", "AWS_", "AZURE_", "GOOGLE_", "PG", "HTTP_", "HTTPS_", "NO_PROXY",
            "REQUESTS_", "SSL_", "HOME")  # fmt: skip
# As many drivers may come at once, which find its socket while it imports.
_BACKLOG = 1024
# A server answers several calls as fast as one; a file is written by one at a time.
_CALLS_TO_SERVER, _CALLS_TO_FILE = 8, 1
_TRIES, _TRY_S = 50, 0.02


@dataclass(frozen=True)
class Place:
    """Where those who share a sink find it: the name of its socket, the folder that it has, and how many
    calls to MLflow it may make at once."""

    address: str
    folder: Path
    most_calls: int


def place_of(folder: Path, uri: str, code: str, environment: Mapping[str, str]) -> Place:
    """That of runs which MLflow at ``uri`` is told of; ``code`` tells our code from another. Raises
    ``OSError`` where the folder cannot hold a key."""
    folder = folder.resolve()
    decides = {name: environment[name] for name in sorted(environment) if name.upper().startswith(_DECIDES)}
    who = [str(folder), os.getuid(), sys.executable, code, uri, decides]
    told = hmac.new(_key_of(folder), json.dumps(who).encode(), hashlib.sha256).hexdigest()
    calls = _CALLS_TO_FILE if sqlite_path(uri) is not None else _CALLS_TO_SERVER
    return Place(f"\0orchestrator-mlflow-sink-{told[:32]}", folder, calls)


class SharedSink:
    """Stands for the process that tells MLflow of one run, with the part of ``subprocess.Popen`` that
    :class:`~orchestrator.ledger.mlflow.sink_process.SinkSupervisor` needs. ``say`` is told what it says.

    Raises ``OSError`` where none is there and none can be started.
    """

    def __init__(self, place: Place, follow: Follow, say: Callable[[str], None]) -> None:
        self.pid = 0
        self._say = say
        self._code: int | None = None
        self._channel = _connected(place)
        self._channel.sendall(from_driver.encode(follow))
        self.listener = threading.Thread(target=self._listen, name="shared sink's words", daemon=True)
        self.listener.start()

    def poll(self) -> int | None:
        return self._code

    def kill(self) -> None:
        """It says nothing more of this run, of others it goes on."""
        with contextlib.suppress(OSError):
            self._channel.sendall(from_driver.encode(GiveUp()))

    def _listen(self) -> None:
        code = GONE
        with contextlib.suppress(OSError, PaperError), self._channel, self._channel.makefile("rb") as lines:
            while line := lines.readline(MOST_LINE_BYTES):
                match from_sink.decode(line):
                    case Follows(pid=pid):
                        self.pid = pid
                    case Said(text=text):
                        self._say(f"MLflow: {text}")
                    case Done(code=done):
                        code = done
                        break
        self._code = code


def _connected(place: Place) -> socket.socket:
    for _ in range(_TRIES):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(place.address)
            if peer_uid(channel) != os.getuid():
                raise PermissionError("its socket is another user's")
            return channel
        except ConnectionRefusedError:  # nobody listens, or is about to
            channel.close()
            if not _start(place):
                time.sleep(_TRY_S)
        except BaseException:
            channel.close()
            raise
    raise TimeoutError("its socket cannot be reached")


def _start(place: Place) -> bool:
    """Start one; false where somebody else is about to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(place.address)
        except OSError:
            return False
        listener.listen(_BACKLOG)
        words = (listener.fileno(), place.most_calls, place.folder)
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(listener.fileno(),),
            start_new_session=True,
            # A hundred threads that wait for most of their time need not have a heap each.
            env={"MALLOC_ARENA_MAX": "2", **os.environ},
        )
    # Somebody has to ask how it ended; it may well outlive us, which Python would warn of.
    threading.Thread(target=process.wait, name="shared sink's end", daemon=True).start()
    return True


def _key_of(folder: Path) -> bytes:
    """Who comes first makes it, and it is whole when it has its name."""
    path = folder / KEY
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            key = papers.read_bytes(path, _KEY_BYTES)
            if len(key) == _KEY_BYTES:
                return key
            raise OSError(f"{path} is not a key; remove it")
        make_folder(folder)
        beside = folder / f".{KEY}.{secrets.token_hex(8)}"
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(beside, path)
        except FileExistsError:
            pass  # another was first
        finally:
            beside.unlink()
    raise OSError(f"{path} cannot be made")
