"""One process that tells one MLflow of many runs: a thread for each, which reads its journal and does what
`sink.py` does alone.

    python -m orchestrator.ledger.mlflow.shared_sink SOCKET CALLS FOLDER

A driver connects to the socket, a descriptor that listens, and says which run it is about
(`shared_messages.py`); its connection ends with it. As many calls to MLflow are under way at once. What
breaks in one run's thread ends that thread, and its driver is told. A call that does not come back cannot be
ended: its thread is abandoned, and the run's lock let go of, so that another may write it. After some of
these the process takes no more runs, and the next driver starts another; so it does after a thousand runs,
whatever libraries have kept of them.

It ends a while after the last connection, and at SIGTERM as one sink would. What it says of itself is in
``FOLDER/mlflow_sink.log``, what of a run in that one's ``logs/mlflow_sink.log``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from orchestrator.ledger.mlflow.pace import Shared, Turns
from orchestrator.ledger.mlflow.shared_client import Client, Logs
from orchestrator.ledger.mlflow.sink_log import begin_log, log_to
from orchestrator.rank.launch.wire import peer_uid

LOG = "mlflow_sink.log"
# Nobody is connected for so long before it ends; the first may take longer to come.
LINGER_S, FIRST_WITHIN_S = 10.0, 60.0
LOOK_S = 0.5
MOST_ABANDONED, MOST_RUNS = 8, 1000

_log = logging.getLogger("orchestrator.mlflow_sink")


class Process:
    """All runs that it follows, and the socket by which more come."""

    def __init__(self, listener: socket.socket, most_calls: int, logs: Logs) -> None:
        listener.setblocking(False)
        self._listener, self._logs, self._turns = listener, logs, Turns(most_calls)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._clients: list[Client] = []
        self._is_told_to_stop, self._takes_more = False, True
        self._taken = self._abandoned = self._at_work = 0

    def told_to_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self._is_told_to_stop = True
        for client in self._clients:
            client.told_to_stop()

    def serve(self) -> None:
        """Until nobody is left."""
        leave_s = time.monotonic() + FIRST_WITHIN_S
        while self._takes_more or self._at_work:
            self._hear()
            now_s = time.monotonic()
            self._look(now_s)
            if self._clients:
                leave_s = now_s + LINGER_S
            is_worn = self._abandoned >= MOST_ABANDONED or self._taken >= MOST_RUNS
            if self._takes_more and (self._is_told_to_stop or is_worn or now_s > leave_s):
                self._take_no_more()
        self._selector.close()
        for client in self._clients:
            client.channel.close()

    def _hear(self) -> None:
        for key, _ in self._selector.select(LOOK_S):
            client: Client | None = key.data
            if client is None:
                self._accept()
            elif not client.receive():
                self._selector.unregister(client.channel)

    def _look(self, now_s: float) -> None:
        for client in self._clients:
            if client.is_stuck(now_s):
                client.abandon()
                self._abandoned += 1
        for client in [client for client in self._clients if client.is_over]:
            client.channel.close()
            self._clients.remove(client)
        self._at_work = sum(client.works for client in self._clients)

    def _accept(self) -> None:
        """All that wait, so that none is refused who had found the socket before it was closed."""
        with contextlib.suppress(BlockingIOError):
            while True:
                channel, _ = self._listener.accept()
                if peer_uid(channel) != os.getuid():
                    channel.close()
                    continue
                client = Client(channel, self._logs, Shared(lambda: self._at_work, self._turns))
                self._clients.append(client)
                self._selector.register(channel, selectors.EVENT_READ, client)
                self._taken += 1

    def _take_no_more(self) -> None:
        """The socket's name is free from here on, and the next driver starts another process."""
        self._accept()
        self._takes_more = False
        self._selector.unregister(self._listener)
        self._listener.close()


def main(words: list[str]) -> int:
    """Returns the exit code."""
    listener, most_calls, folder = socket.socket(fileno=int(words[0])), int(words[1]), Path(words[2])
    own = log_to(folder / LOG)
    logs = Logs(own)
    begin_log(folder / LOG, logs)
    gc.freeze()  # what MLflow has loaded is never garbage
    process = Process(listener, most_calls, logs)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is a driver's to handle
    signal.signal(signal.SIGTERM, process.told_to_stop)
    _log.info("process %d serves", os.getpid())
    process.serve()
    _log.info("process %d ends: nobody is left", os.getpid())
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # a call that does not come back is not waited for
