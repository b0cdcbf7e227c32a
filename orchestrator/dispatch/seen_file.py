"""``STATE_DIR/seen.json``: the nodes that the daemon saw last, for whoever asks how the queue stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator import papers
from orchestrator.dispatch.codec import made, plain
from orchestrator.dispatch.seen import SeenNode
from orchestrator.files import atomic_write

NAME = "seen.json"
EVERY_S = 5.0
_STALE_S = 30.0


def write_seen(state_dir: Path, nodes: Sequence[SeenNode] | None, now: float) -> None:
    """An earlier one is replaced; nobody waits for it to be on the disk."""
    body = {"at_unix_s": now, "nodes": None if nodes is None else plain(tuple(nodes))}
    atomic_write(state_dir / NAME, json.dumps(body), 0o600, durable=False)


def read_seen(state_dir: Path, now: float) -> tuple[SeenNode, ...] | None:
    """Those that are alive, none where no cluster answers; None where no daemon has looked of late."""
    try:
        body = papers.read_object(state_dir / NAME)
        if not now - float(body["at_unix_s"]) < _STALE_S:
            return None
        return tuple([made(SeenNode, each) for each in body["nodes"] or ()])
    except (OSError, ValueError, KeyError, TypeError):
        return None
