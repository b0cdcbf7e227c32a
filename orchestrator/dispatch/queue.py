"""The queue of a run root in the hand of a program. The verbs of the command line are its first client.

Each call opens the queue's database and closes it again, so that a handle may be kept for as long as one
likes, also while no daemon leads.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.draining import NodeDrain, jobs_on
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import CancelAsked, Fact, HeldBack, LetGo, NodeDrained, Reserved, Unreserved
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.moving import move
from orchestrator.dispatch.named_jobs import entries_named, entry_named, held_ones
from orchestrator.dispatch.pools_now import HOLDS
from orchestrator.dispatch.queue_answers import Heard, QueueNow, Submission
from orchestrator.dispatch.queue_place import claim, fleet_here
from orchestrator.dispatch.queue_view import Outlook, QueuedJob, QueueView
from orchestrator.dispatch.quotas import QuotaRow, months_of, quotas_of
from orchestrator.dispatch.reserving import (
    NodesReserved,
    nodes_reserved,
    reservation_named,
    reserve_fact,
    reserved_nodes,
)
from orchestrator.dispatch.seen_file import read_seen
from orchestrator.dispatch.serve import daemon_pid
from orchestrator.dispatch.store import Choose, Store
from orchestrator.dispatch.submitting import Asked, Sender, looked_at, new_ones
from orchestrator.dispatch.submitting import submit as write_down
from orchestrator.dispatch.wishes import JobWishes, MoveWishes, Time, asked_of, words_of
from orchestrator.errors import ConfigError
from orchestrator.users import user_name

_LOOK_S = 0.5
_ENDED_SHOWN = 3


class Queue:
    """The queue of many jobs on a run root, of :func:`orchestrator.queue`."""

    def __init__(self, run_root: Path | str = "runs", clock: Callable[[], float] = time.time) -> None:
        self.run_root = Path(run_root).resolve()
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Queue {self.run_root}>"

    @property
    def is_led(self) -> bool:
        """Whether a daemon leads it; else what is submitted waits until one does."""
        return daemon_pid(fleet_here(self.run_root).state_dir) is not None

    def now(self) -> QueueNow:
        """Return who runs, who waits, and on what."""
        with self._open() as (store, fleet):
            view, is_led = self._view(store, fleet), daemon_pid(fleet.state_dir) is not None
            ended = [view.ended(entry) for entry in store.newest_ended(_ENDED_SHOWN)]
            return QueueNow(view.jobs(), ended, view.pools(), is_led, months_of(view.world))

    def jobs(self) -> list[QueuedJob]:
        """Return those that have not ended: who runs first, then who waits by worth."""
        return self.now().jobs

    def job(self, key: str) -> QueuedJob:
        """Return one, also one that has ended.

        Raises:
            ConfigError: There is none of that key.
        """
        with self._open() as (store, fleet):
            view = self._view(store, fleet)
            return view.job(key) or view.ended(entry_named(store, key))

    def wait(self, key: str, timeout_s: float | None = None) -> QueuedJob:
        """Wait until a job has ended; returns it.

        Args:
            key: Its own.
            timeout_s: Left out it waits for as long as that takes.

        Raises:
            ConfigError: There is none of that key.
            TimeoutError: It has not ended.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._open() as (store, fleet):
                entry = entry_named(store, key)
                if entry.is_over:
                    return self._view(store, fleet).ended(entry)
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeoutError(f"{key}: has not ended after {timeout_s:g} s ({entry.job.state.value})")
            time.sleep(_LOOK_S)

    def submit(self, *words: str, **wishes: Unpack[JobWishes]) -> Submission:
        """Put a job into the queue, also while no daemon leads. The same key with the same words is the same
        job, however often it is submitted.

        Args:
            words: As of :func:`orchestrator.compose`.
            wishes: ``team``, ``job_class``, ``deadline`` and so on, see docs/python_api.md.

        Raises:
            ConfigError: It cannot be, or cannot meet its deadline.
            RunDirectoryError: The queue cannot be written, and nothing was.
        """
        return self.submit_all([words], asked_of(**wishes))[0]

    def submit_sweep(
        self, words: Sequence[str], values: Mapping[str, Sequence[object]], **wishes: Unpack[JobWishes]
    ) -> list[Submission]:
        """Put a job for each combination of values into the queue, all or none.

        Args:
            words: Shared by all, as of :func:`orchestrator.compose`.
            values: Of each key that varies.
            wishes: As of :meth:`submit`; ``key`` is the group's, and its jobs are ``KEY-1``, ``KEY-2`` …

        Raises:
            ConfigError: One of them cannot be; none was submitted.
            RunDirectoryError: The queue cannot be written, and nothing was.
        """
        points = [
            (*words, *(f"{key}={value}" for key, value in zip(values, point, strict=True)))
            for point in itertools.product(*values.values())
        ]
        if not points:
            raise ConfigError("submit_sweep: a key has no value; give each one at least")
        return self.submit_all(points, asked_of(**wishes), is_sweep=True)

    def outlook(self, *words: str, **wishes: Unpack[JobWishes]) -> Outlook:
        """Return what would come of a job: when it starts and ends, what it costs, whose work is stopped for
        it. Nothing is submitted.

        Args:
            words: As of :func:`orchestrator.compose`.
            wishes: As of :meth:`submit`.

        Raises:
            ConfigError: It cannot be, or cannot meet its deadline.
        """
        return self.outlooks([words], asked_of(**wishes))[0]

    def submit_all(
        self, points: Sequence[Sequence[str]], asked: Asked, is_sweep: bool = False
    ) -> list[Submission]:
        """Put several jobs into the queue, all or none. See :meth:`submit` and :meth:`submit_sweep`."""
        with self._open() as (store, fleet):
            specs, outlooks = looked_at(store, fleet, points, asked, is_sweep, self._view(store, fleet))
            claim(self.run_root, fleet)
            found = write_down(store, specs, self._sender(asked), self._clock())
        return [
            Submission(
                entry.key,
                is_new,
                entry.job.state.value,
                entry.job.submitted_at,
                outlooks.get(entry.key) if is_new else None,
            )
            for entry, is_new in found
        ]

    def outlooks(
        self, points: Sequence[Sequence[str]], asked: Asked, is_sweep: bool = False
    ) -> list[Outlook]:
        """What would come of several jobs that are submitted together."""
        with self._open() as (store, fleet):
            view = self._view(store, fleet)
            specs, outlooks = looked_at(store, fleet, points, asked, is_sweep, view)
            new_ones(store, store.read(), specs, self._sender(asked), view.now)
            there = [spec for spec in specs if spec.key not in outlooks]
            outlooks |= {one.key: one for one in view.outlooks(there)} if there else {}
        return [outlooks[spec.key] for spec in specs]

    def cancel(self, key: str) -> list[Heard]:
        """Take a job out of the queue; one that runs is asked to save and stop.

        Args:
            key: Its own, or that of a group, which means all its jobs.

        Raises:
            ConfigError: There is none of that key, or it has ended.
        """
        return self._ask(key, CancelAsked)

    def hold(self, key: str) -> list[Heard]:
        """Keep a job from starting until it is released; one that runs is asked to save and leave.

        Args:
            key: Its own, or that of a group.

        Raises:
            ConfigError: There is none of that key, or it has ended.
        """
        return self._ask(key, lambda each: HeldBack(each, f"{user_name()} holds it"))

    def release(self, key: str) -> list[Heard]:
        """Let a job go that is held.

        Args:
            key: Its own, or that of a group.

        Raises:
            ConfigError: There is none of that key, it has ended, or nothing holds it.
        """
        return self._ask(key, LetGo, held_ones)

    def move(self, key: str, **wishes: Unpack[MoveWishes]) -> list[Outlook]:
        """Change what a job is worth, when it has to be done, or where it may run; returns what comes of it.

        Args:
            key: Its own, or that of a group.
            wishes: ``job_class``, ``usd_per_hour``, ``deadline`` and ``pools``.

        Raises:
            ConfigError: It cannot be, or cannot meet its new deadline.
        """
        return self.move_as_asked(key, asked_of(**wishes))

    def move_as_asked(self, key: str, asked: Asked) -> list[Outlook]:
        """See :meth:`move`."""
        with self._open() as (store, fleet):
            view = self._view(store, fleet)
            return move(store, key, asked, fleet, view, lambda choose: self._write(store, fleet, choose))

    def quotas(self) -> list[QuotaRow]:
        """Return what each team has, lends, borrows and waits for in each pool."""
        with self._open() as (store, fleet):
            return quotas_of(self._view(store, fleet).world, store.read(), self._clock())

    def reservations(self) -> list[NodesReserved]:
        """Return the nodes that are kept, or will be."""
        with self._open() as (store, _):
            return reserved_nodes(store.read(), self._clock())

    def reserve(
        self,
        nodes: int,
        until: Time,
        *,
        team: str | None = None,
        job: str | None = None,
        pool: str | None = None,
        start: Time | None = None,
        why: str = "",
        name: str | None = None,
    ) -> NodesReserved:
        """Keep nodes for a team or a job for a time.

        Args:
            nodes: So many, any of the pool's.
            until: When that ends.
            team: For whom; a team or a job has to be said.
            job: Its key.
            pool: Of which pool; needed where there are several.
            start: When that begins; left out it is now.
            why: For whom it concerns.
            name: By which it is ended; left out it is ``r1``, ``r2`` …

        Raises:
            ConfigError: So many cannot be kept then.
        """
        said = {
            "nodes": nodes, "until": until, "team": team, "job": job, "pool": pool, "from": start,
            "why": why or None, "name": name,
        }  # fmt: skip
        return self.reserve_as_asked(words_of(said))

    def reserve_as_asked(self, words: Mapping[str, str]) -> NodesReserved:
        """See :meth:`reserve`."""
        now = self._clock()
        with self._open() as (store, fleet):
            made: list[Reserved] = []

            def choose(books: Books) -> list[Reserved]:
                made[:] = [reserve_fact(words, fleet, books, now)]
                return made

            self._write(store, fleet, choose)
        return nodes_reserved(made[0].name, made[0].reservation)

    def end_reservation(self, name: str) -> NodesReserved:
        """End one before its time; returns what it was.

        Raises:
            ConfigError: There is none of that name.
        """
        ended: list[NodesReserved] = []

        def choose(books: Books) -> list[Unreserved]:
            ended[:] = [reservation_named(name, books)]
            return [Unreserved(name)]

        with self._open() as (store, fleet):
            self._write(store, fleet, choose)
        return ended[0]

    def drain(self, host: str, off: bool = False) -> NodeDrain:
        """Start nothing more on a node; what runs there may end.

        Args:
            host: Its name.
            off: Start jobs there again.

        Raises:
            ConfigError: There is no such node.
        """
        jobs: list[str] = []

        def choose(books: Books) -> list[Fact]:
            jobs[:] = jobs_on(host, books)
            return [NodeDrained(host, off)]

        with self._open() as (store, fleet):
            self._write(store, fleet, choose)
        return NodeDrain(host, not off, jobs)

    def _ask(
        self, key: str, fact: Callable[[str], Fact], named: Callable[..., list[Entry]] = entries_named
    ) -> list[Heard]:
        entries: list[Entry] = []

        def choose(books: Books) -> list[Fact]:
            entries[:] = named(store, key, books)
            return [fact(entry.key) for entry in entries]

        with self._open() as (store, fleet):
            self._write(store, fleet, choose)
            now = [store.entry(entry.key) or entry for entry in entries]
        return [
            Heard(was.key, was.job.state in HOLDS, entry.job.state.value)
            for was, entry in zip(entries, now, strict=True)
        ]

    def _sender(self, asked: Asked) -> Sender:
        return Sender(self.run_root, os.getcwd(), user_name(), asked)

    @contextmanager
    def _open(self) -> Iterator[tuple[Store, FleetFile]]:
        fleet = fleet_here(self.run_root)
        with Store(fleet.state_dir) as store:
            yield store, fleet

    def _view(self, store: Store, fleet: FleetFile) -> QueueView:
        now = self._clock()
        return QueueView(store.read(), fleet, self.run_root, now, read_seen(fleet.state_dir, now))

    def _write(self, store: Store, fleet: FleetFile, choose: Choose) -> Books:
        """Whatever a verb checks it checks upon the books that ``choose`` sees, while nobody else writes."""
        claim(self.run_root, fleet)
        return store.write(user_name(), self._clock(), choose)


def queue(run_root: Path | str = "runs") -> Queue:
    """Open the queue of a run root, which a file ``fleet.yaml`` there describes.

    Args:
        run_root: The folder of the runs.

    Raises:
        ConfigError: There is no such file, or it cannot be taken.
    """
    found = Queue(run_root)
    fleet_here(found.run_root)
    return found


def submit(*words: str, run_root: Path | str = "runs", **wishes: Unpack[JobWishes]) -> Submission:
    """Put a job into the queue of a run root, see :meth:`Queue.submit`.

    Args:
        words: As of :func:`orchestrator.compose`.
        run_root: The folder of the runs.
        wishes: ``team``, ``job_class``, ``deadline`` and so on, see docs/python_api.md.

    Raises:
        ConfigError: It cannot be, or cannot meet its deadline.
        RunDirectoryError: The queue cannot be written, and nothing was.
    """
    return queue(run_root).submit(*words, **wishes)
