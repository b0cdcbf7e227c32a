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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import CancelAsked, Changed, Fact, HeldBack, LetGo, NodeDrained
from orchestrator.dispatch.fleet_file import FleetFile, read_fleet_file
from orchestrator.dispatch.named_jobs import entries_named, entry_named
from orchestrator.dispatch.pools_now import HOLDS
from orchestrator.dispatch.queue_answers import Heard, QueueNow, Submission
from orchestrator.dispatch.queue_view import Outlook, QueuedJob, QueueView
from orchestrator.dispatch.quotas import QuotaRow, quotas_of
from orchestrator.dispatch.reserving import NodesReserved, end_facts, reserve_facts, reserved_nodes
from orchestrator.dispatch.seen_file import read_seen
from orchestrator.dispatch.serve import daemon_pid
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.submitting import Asked, check_deadline, moved_spec, spec_of
from orchestrator.dispatch.submitting import submit as write_down
from orchestrator.dispatch.wishes import JobWishes, MoveWishes, Time, asked_of
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.jobs import JobSpec
from orchestrator.ledger.run_directory import new_run_name
from orchestrator.users import user_name

if TYPE_CHECKING:
    from orchestrator.config.schema import Config

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
        return daemon_pid(read_fleet_file(self.run_root).state_dir) is not None

    def now(self) -> QueueNow:
        """Return who runs, who waits, and on what."""
        with self._open() as (store, fleet):
            view = self._view(store, fleet)
            ended = [view.ended(entry) for entry in store.newest_ended(_ENDED_SHOWN)]
            return QueueNow(view.jobs(), ended, view.pools(), daemon_pid(fleet.state_dir) is not None)

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
            specs, outlooks = self._looked_at(store, fleet, points, asked, is_sweep)
            found = write_down(store, specs, self.run_root, os.getcwd(), user_name(), self._clock())
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
            specs, outlooks = self._looked_at(store, fleet, points, asked, is_sweep)
            there = [spec for spec in specs if spec.key not in outlooks]
            view = self._view(store, fleet)
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
            ConfigError: There is none of that key, or it has ended.
        """
        return self._ask(key, LetGo)

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
        now = self._clock()
        with self._open() as (store, fleet):
            entries = entries_named(store, key)
            specs = [moved_spec(entry, asked, fleet, _compose, now) for entry in entries]
            outlooks = self._view(store, fleet).outlooks(specs)
            for spec, outlook in zip(specs, outlooks, strict=True):
                if asked.deadline is not None:
                    check_deadline(spec, outlook, asked.deadline, now)
            self._write(store, [Changed(spec) for spec in specs])
        return outlooks

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
            "nodes": nodes, "until": _typed(until), "team": team, "job": job, "pool": pool,
            "from": _typed(start), "why": why or None, "name": name,
        }  # fmt: skip
        return self.reserve_as_asked({key: str(value) for key, value in said.items() if value is not None})

    def reserve_as_asked(self, words: Mapping[str, str]) -> NodesReserved:
        """See :meth:`reserve`."""
        now = self._clock()
        with self._open() as (store, fleet):
            facts = reserve_facts(words, fleet, store.read(), now)
            self._write(store, facts)
            return next(one for one in reserved_nodes(store.read(), now) if one.name == facts[0].name)

    def end_reservation(self, name: str) -> None:
        """End one before its time.

        Raises:
            ConfigError: There is none of that name.
        """
        with self._open() as (store, _):
            self._write(store, end_facts(name, store.read()))

    def drain(self, host: str, off: bool = False) -> None:
        """Start nothing more on a node; what runs there may end.

        Args:
            host: Its name.
            off: Start jobs there again.

        Raises:
            ConfigError: There is no such node.
        """
        with self._open() as (store, _):
            hosts = {slot.host for slot in store.read().nodes.values()}
            if host not in hosts:
                there = f"there are {', '.join(sorted(hosts))}" if hosts else "the daemon has seen none yet"
                raise ConfigError(f"drain {host}: no such node{near_miss(host, hosts)}; {there}")
            self._write(store, [NodeDrained(host, off)])

    def _looked_at(
        self, store: Store, fleet: FleetFile, points: Sequence[Sequence[str]], asked: Asked, is_sweep: bool
    ) -> tuple[list[JobSpec], dict[str, Outlook]]:
        """The jobs, and what would come of those that are new."""
        now, books = self._clock(), store.read()
        group = ""
        if is_sweep:
            group = asked.key or new_run_name(_compose(points[0]).job.name)
        specs = []
        for number, words in enumerate(points, 1):
            said = replace(asked, key=f"{group}-{number}", group=group) if group else asked
            specs.append(spec_of(tuple(words), said, fleet, books, _compose, now))
        new = [spec for spec in specs if store.entry(spec.key) is None]
        outlooks = self._view(store, fleet).outlooks(new) if new else []
        for spec, outlook in zip(new, outlooks, strict=True):
            check_deadline(spec, outlook, asked.deadline or "", now)
        return specs, {outlook.key: outlook for outlook in outlooks}

    def _ask(self, key: str, fact: Callable[[str], Fact]) -> list[Heard]:
        with self._open() as (store, _):
            entries = entries_named(store, key)
            self._write(store, [fact(entry.key) for entry in entries])
        return [Heard(entry.key, entry.job.state in HOLDS) for entry in entries]

    @contextmanager
    def _open(self) -> Iterator[tuple[Store, FleetFile]]:
        fleet = read_fleet_file(self.run_root)
        with Store(fleet.state_dir) as store:
            yield store, fleet

    def _view(self, store: Store, fleet: FleetFile) -> QueueView:
        now = self._clock()
        return QueueView(store.read(), fleet, self.run_root, now, read_seen(fleet.state_dir, now))

    def _write(self, store: Store, facts: Sequence[Fact]) -> Books:
        return store.write(user_name(), self._clock(), lambda _books: facts)


def _typed(when: Time | None) -> str | None:
    return when if when is None or isinstance(when, str) else when.isoformat()


def _compose(words: Sequence[str]) -> Config:
    from orchestrator.config.composing import compose

    return compose(*words)


def queue(run_root: Path | str = "runs") -> Queue:
    """Open the queue of a run root, which a file ``fleet.yaml`` there describes.

    Args:
        run_root: The folder of the runs.

    Raises:
        ConfigError: There is no such file, or it cannot be taken.
    """
    found = Queue(run_root)
    read_fleet_file(found.run_root)
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
