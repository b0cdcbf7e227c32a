"""All that a page of the fleet tells, at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.dispatch.queue import Queue
from orchestrator.dispatch.queue_answers import QueueNow
from orchestrator.dispatch.queue_place import fleet_here
from orchestrator.dispatch.queue_view import QueueView
from orchestrator.dispatch.quotas import QuotaRow, months_of, quotas_of
from orchestrator.dispatch.reserving import NodesReserved, reserved_nodes
from orchestrator.dispatch.seen_file import read_seen
from orchestrator.dispatch.serve import daemon_pid
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.timeline import PAST, Closed, Past, Stretch, course
from orchestrator.fleet.pools import NodeState, spans_away
from orchestrator.fleet.world import World

_ENDED_SHOWN = 20


@dataclass(frozen=True)
class FleetSeen:
    """``stretches`` are those of the past, of now and to come; ``hosts`` name the nodes that have been
    seen, by pool and number."""

    now: float
    run_root: Path
    queue: QueueNow
    quotas: list[QuotaRow]
    reservations: list[NodesReserved]
    stretches: list[Stretch]
    closed: list[Closed]
    hosts: dict[tuple[str, int], str]
    led_by: int | None  # the process of the daemon; None where there is none


class FleetWatch:
    """Looks at a queue again and again; what is past is read once."""

    def __init__(self, run_root: Path, past_s: float, clock: Callable[[], float] = time.time) -> None:
        self._queue, self._past_s, self._clock = Queue(run_root, clock), past_s, clock
        self._past = Past()

    @property
    def run_root(self) -> Path:
        return self._queue.run_root

    def look(self) -> FleetSeen:
        """Raises :class:`~orchestrator.errors.OrchestratorError` where there is no queue to look at."""
        now, root = self._clock(), self._queue.run_root
        fleet = fleet_here(root)
        with Store(fleet.state_dir) as store:
            books = store.read()
            for seq, at, fact in store.facts_after(self._past.seq, PAST):
                self._past.fold(seq, at, fact)
            view = QueueView(books, fleet, root, now, read_seen(fleet.state_dir, now))
            ended = [view.ended(entry) for entry in store.newest_ended(_ENDED_SHOWN)]
        pid = daemon_pid(fleet.state_dir)
        since = now - self._past_s
        return FleetSeen(
            now,
            root,
            QueueNow(view.jobs(), ended, view.pools(), pid is not None, months_of(view.world)),
            quotas_of(view.world, books, now),
            reserved_nodes(books, now),
            [*self._past.ran(since), *course(view.world, fleet.policy, self._past)],
            [*self._past.drained(since), *_not_there(view.world, now)],
            {at: slot.host for at, slot in books.nodes.items()},
            pid,
        )


def _not_there(world: World, now: float) -> list[Closed]:
    """Nodes that are down, yet to come or leave, and times at which a pool cannot be had."""
    found = [
        Closed(pool.name, number, now, float("inf"), "not there")
        for pool in world.pools
        for number, state in pool.not_up
        if state is NodeState.DOWN
    ]
    found += [
        Closed(pool.name, number, since, until, "yet to come" if since == float("-inf") else "has left")
        for pool in world.pools
        for number, since, until in spans_away(pool, world.changes)
    ]
    for pool in world.pools:
        spans = []
        if pool.from_at is not None:
            spans.append((float("-inf"), pool.from_at))
        if pool.until_at is not None:
            spans.append((pool.until_at, float("inf")))
        found += [
            Closed(pool.name, number, since, until, "closed")
            for number in range(pool.nodes)
            for since, until in spans
        ]
    return found
