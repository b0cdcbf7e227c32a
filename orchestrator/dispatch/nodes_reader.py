"""``python -m orchestrator.dispatch.nodes_reader ADDRESS STATE_DIR``: the nodes of a Ray, a line of JSON each
second; and what the daemon writes of the queue into that folder, as gauges of that Ray.

It is a process of its own: one that is connected to Ray ends with it, after a minute of waiting for it.
Whoever reads it, `NodesReader`, may end it at any time and start another.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from orchestrator import papers
from orchestrator.cluster.warm import record
from orchestrator.dispatch.codec import made, plain
from orchestrator.dispatch.queue_gauges import read_gauges
from orchestrator.dispatch.seen import SeenNode
from orchestrator.errors import OrchestratorError
from orchestrator.output import without_controls

EVERY_S = 1.0
# What was seen so long ago says nothing of now.
_STALE_S = 20.0
_ANSWER_S = 2.0
_AGAIN_S = 3.0
# So long somebody who listens may take to say which nodes there are, until they count as gone.
_UNKNOWN_S = 60.0
_END_S = 5.0


class NodesReader:
    """Asks for the nodes of the cluster at an address; None: the one that `up` keeps, whichever that is.
    ``token_file`` has its token where that is not the user's own. The queue of ``state_dir`` is told there
    as gauges."""

    def __init__(
        self, address: str | None = None, token_file: str = "", state_dir: Path | None = None
    ) -> None:
        self._address, self._token_file, self._state_dir = address, token_file, state_dir
        self._child: subprocess.Popen[bytes] | None = None
        self._of = ""
        self._seen: tuple[SeenNode, ...] | None = None
        self._seen_at = self._started_at = self._probed_at = -1e9
        self._silent_since: float | None = None
        self._answers = False

    def nodes(self) -> tuple[SeenNode, ...] | None:
        """Those that are alive; None where no cluster answers, or nothing is known of it yet."""
        now = time.monotonic()
        address = self._answering(now)
        if address is None or (
            self._child is not None and (self._child.poll() is not None or address != self._of)
        ):
            self.close()
        if address is None:
            return None
        if self._child is None and now - self._started_at > _AGAIN_S:
            self._start(address, now)
        return self._seen if self._is_fresh(now) else None

    @property
    def is_unknown(self) -> bool:
        """Whether somebody listens there who has not said yet which nodes there are."""
        now = time.monotonic()
        if not self._answers or self._is_fresh(now):
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = now
        return now - self._silent_since < _UNKNOWN_S

    def address(self) -> str | None:
        """That of the cluster that has told its nodes of late; None where none has."""
        fresh = self._seen is not None and self._is_fresh(time.monotonic())
        return self._of if fresh and self._answers else None

    def _is_fresh(self, now: float) -> bool:
        """Whether what was seen last says something of now."""
        return now - self._seen_at < _STALE_S

    def close(self) -> None:
        """End the child that asks."""
        child, self._child, self._seen = self._child, None, None
        if child is not None:
            child.kill()
            child.wait(_END_S)
            assert child.stdin is not None
            child.stdin.close()

    def _answering(self, now: float) -> str | None:
        """The address, if somebody listens there: a head that was killed is noticed so, and not a minute
        later."""
        known = record.find() if self._address is None else None
        address = self._address or (known.address if known is not None else None)
        if address is None:
            self._answers = False
            return None
        if now - self._probed_at > EVERY_S or address != self._of:
            self._probed_at = now
            self._answers = known.answers() if known is not None else _listens(address)
        return address if self._answers else None

    def _start(self, address: str, now: float) -> None:
        self._started_at, self._of = now, address
        token = {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": self._token_file} if self._token_file else {}
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, address, *([str(self._state_dir)] if self._state_dir else [])],
            env={**os.environ, **token},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        thread = threading.Thread(target=self._listen, args=(self._child, self._child.stdout), daemon=True)
        thread.start()

    def _listen(self, child: subprocess.Popen[bytes], lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    seen = tuple([made(SeenNode, each) for each in papers.json_of(line)])
                    if child is self._child:
                        self._seen, self._seen_at = seen, time.monotonic()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except (OSError, ValueError):
        return False
    return True


def main(address: str, state_dir: str | None = None) -> int:
    """Tell the nodes, and how the queue stands, until nobody reads any more."""
    from orchestrator.driver.warm_cluster import connect

    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints
    try:
        with connect(address):
            from orchestrator.cluster.gauges import QueueGauges
            from orchestrator.cluster.placement import inspect_cluster

            gauges = QueueGauges()
            while True:
                if state_dir is not None:
                    gauges.show(read_gauges(Path(state_dir), time.time()))
                seen = inspect_cluster()
                nodes = [_seen(node) for node in seen.nodes if node["NodeID"] not in seen.draining]
                answers.write(json.dumps(plain(sorted(nodes, key=lambda node: node.node_id))) + "\n")
                answers.flush()
                time.sleep(EVERY_S)
    except BrokenPipeError:
        return 0
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _end_with_parent() -> None:
    """Standard input ends when whoever started us does."""
    sys.stdin.buffer.read()
    os._exit(0)


def _seen(node: dict[str, object]) -> SeenNode:
    resources, labels = node["Resources"], node.get("Labels") or {}
    assert isinstance(resources, dict)
    assert isinstance(labels, dict)
    host = without_controls(str(node["NodeManagerHostname"]))
    seen = SeenNode(str(node["NodeID"]), host, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    return replace(seen, labels=tuple(sorted((str(key), str(value)) for key, value in labels.items())))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
