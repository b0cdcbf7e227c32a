"""The queue in one SQLite database: an append-only table of facts is the truth, all other tables are folded
from it in the transaction that appends. What decisions were made upon is beside it, and is forgotten after a
while (see `moments`).

A crash at any moment leaves the database as it was before that transaction or after it: whoever was told that
something is written finds it again. Any number of processes may write, one at a time, also while no daemon
runs. What a crash can leave behind is the write-ahead log, which the next to open the database takes in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from orchestrator.dispatch.books import KEPT_ENDED, Books
from orchestrator.dispatch.codec import made, plain
from orchestrator.dispatch.entries import Entry, Leader, MonthOf, NamedReservation, NodeSlot, Used
from orchestrator.dispatch.facts import AROUND, KINDS, Fact, Weighed
from orchestrator.dispatch.local_disk import network_type
from orchestrator.dispatch.tables import (
    ALL_FACTS,
    FACTS,
    MOST_VALUES,
    ONLY_EVENTS,
    VERSION,
    bring_up,
    forget_moments,
    put_moment,
    unpacked,
)
from orchestrator.dispatch.wake import wake
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.files import NO_SPACE
from orchestrator.papers import PaperError, json_of, one_line
from orchestrator.topology.tree import natural

NAME = "fleet.db"
_BUSY_S = 30.0
# Of the index that a database with a write-ahead log has beside it.
_LEAST_ROOM_BYTES = 64 << 10
# Of rows that are forgotten in a transaction: whoever submits waits for no more.
MOST_FORGOTTEN = 100
_PROJECTIONS = ("jobs", "teams", "usage", "around")

Choose = Callable[[Books], Sequence[Fact]]


class Deposed(RunDirectoryError):
    """Another daemon leads: this one may write nothing any more."""


class Store:
    """The queue of one run root. ``most_pages`` bounds the file, as a full disk does."""

    def __init__(self, folder: Path, most_pages: int | None = None) -> None:
        """Open it, and make it where it is not there.

        Raises :class:`ConfigError` for a folder of the network and a database that this version cannot read,
        :class:`RunDirectoryError` where it cannot be read or written.
        """
        self.path = folder / NAME
        if (kind := network_type(folder)) is not None:
            raise ConfigError(
                f"{self.path}: is on a file system of the network ({kind}), where a crash can damage a"
                " database; give the queue a folder on a disk of this machine with 'state_dir: PATH' in"
                " fleet.yaml"
            )
        self._books: Books | None = None
        with self._told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            try:
                os.chmod(self.path, 0o600)
                self._prepare(most_pages)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> Books:
        """The books as they are now. They are the store's own, and are not to be changed."""
        with self._told(), self._transaction("BEGIN"):
            return self._caught_up()

    def write(self, by: str, at: float, choose: Choose, epoch: int | None = None) -> Books:
        """Append what ``choose`` says when it sees the books; nobody writes between its look and that.

        With ``epoch`` only as the daemon that leads with it; what others have written wakes that one. What
        ``choose`` raises leaves all as it was. Raises :class:`Deposed`, and :class:`RunDirectoryError` where
        nothing could be written.
        """
        with self._told():
            try:
                with self._transaction("BEGIN IMMEDIATE"):
                    books = self._caught_up()
                    if epoch is not None:
                        self._check_leader(books, epoch)
                    facts = choose(books)
                    self._append(books, by, at, facts)
                books.tidy()
            except BaseException:
                self._books = None  # it may be ahead of what is written
                raise
        if facts and epoch is None:
            wake(self.path.parent)
        return books

    def _check_leader(self, books: Books, epoch: int) -> None:
        if books.leader.epoch != epoch:
            raise Deposed(
                f"{self.path}: another daemon leads (process {books.leader.pid} on {books.leader.host}); this"
                " one ends"
            )

    def entry(self, key: str) -> Entry | None:
        """A job by its key, also one that has ended long ago."""
        with self._told():
            row = self._db.execute("SELECT body FROM jobs WHERE key = ?", (key,)).fetchone()
        return None if row is None else _entry(row[0])

    def group(self, name: str) -> list[Entry]:
        """The jobs of a group, also those that have ended long ago. They are called NAME-1, NAME-2 …"""
        with self._told():
            rows = self._db.execute(
                "SELECT body FROM jobs WHERE key >= ? AND key < ?", (f"{name}-", f"{name}.")
            ).fetchall()  # "." comes after "-"
        found = [entry for entry in (_entry(body) for (body,) in rows) if entry.job.spec.group == name]
        return sorted(found, key=lambda entry: natural(entry.key))

    def newest_ended(self, limit: int) -> list[Entry]:
        """Those who have ended, the newest first."""
        with self._told():
            rows = self._db.execute(
                "SELECT body FROM jobs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, key LIMIT ?",
                (limit,),
            ).fetchall()
        return [_entry(body) for (body,) in rows]

    def facts(self) -> Iterator[tuple[float, str, Fact]]:
        """All that ever happened, with what decisions were made upon as far as that is on record: when, said
        by whom, and what."""
        rows = self._db.execute(ALL_FACTS)
        for seq, at, by, kind, body in rows:
            yield at, by, self._fact(seq, kind, body)

    def facts_after(self, seq: int, kinds: Collection[type[Fact]]) -> Iterator[tuple[int, float, Fact]]:
        """What of these kinds happened after the fact of that number: the number of each, when, and what."""
        names = [kind.__name__ for kind in kinds]
        among = f"kind IN ({', '.join('?' * len(names))})"
        with self._told():
            rows = self._db.execute(FACTS.format(f"seq > ? AND {among}"), (seq, *names))
            for number, at, _by, kind, body in rows:
                yield number, at, self._fact(number, kind, body)

    def forget_moments(self, before: float, epoch: int, most: int = MOST_FORGOTTEN) -> int:
        """Forget what decisions before that time were made upon, so many rows at most: as the daemon that
        leads. Returns how many went; the file does not get smaller, but what was theirs is used again.

        The newest whole moment before that time stays, with which those after it begin.
        """
        with self._told(), self._transaction("BEGIN IMMEDIATE"):
            self._check_leader(self._caught_up(), epoch)
            return forget_moments(self._db, before, most)

    def rebuild(self) -> None:
        """Fold all facts anew, and write the projections as they come out."""
        with self._told(), self._transaction("BEGIN IMMEDIATE"):
            self._fold_anew()

    def _fold_anew(self) -> None:
        for table in _PROJECTIONS:
            self._db.execute(f"DELETE FROM {table}")
        self._books, books = None, Books()
        changed: set[str] = set()
        rows = self._db.execute(FACTS.format(ONLY_EVENTS)).fetchall()
        for seq, at, by, kind, body in rows:
            changed |= books.fold(at, by, self._fact(seq, kind, body))
        self._project(books, changed, whole=True)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """The projections, to be compared."""
        return {
            table: self._db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in _PROJECTIONS
        }

    def _prepare(self, most_pages: int | None) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if most_pages is not None:
            self._db.execute(f"PRAGMA max_page_count = {most_pages}")
        with self._transaction("BEGIN IMMEDIATE"):
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise ConfigError(
                    f"{self.path}: was written by a newer version of orchestrator (its tables have version"
                    f" {version}, this one knows {VERSION}); use that version, or move the file away to begin"
                    " with an empty queue"
                )
            if version < VERSION:
                bring_up(self._db, version)
            if version == 0:
                self._project(Books(), set())
            elif version < VERSION:
                self._fold_anew()  # this version may make more of the same facts

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._db.execute(begin)
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            full = _is_full(error, self.path.parent)
            remedy = "make room on that disk and type it again" if full else "mend that and type it again"
            said = "the disk is full" if full else one_line(str(error))
            raise RunDirectoryError(f"{self.path}: {said}; nothing was written, {remedy}") from None
        except PaperError as error:
            raise RunDirectoryError(
                f"{self.path}: {error}; it is damaged, or of another version: move it away to begin with an"
                " empty queue"
            ) from None

    def _caught_up(self) -> Books:
        if self._books is None:
            self._books = self._loaded()
        books = self._books
        rows = self._db.execute(FACTS.format("seq > ?"), (books.seq,)).fetchall()
        for seq, at, by, kind, body in rows:
            books.fold(at, by, self._fact(seq, kind, body))
            books.seq = seq
        books.tidy()
        return books

    def _fact(self, seq: int, kind: str, body: str | bytes) -> Fact:
        if kind not in KINDS:
            raise PaperError(f"event {seq} is a {kind}, which is not known")
        return made(KINDS[kind], json_of(unpacked(body), MOST_VALUES))

    def _loaded(self) -> Books:
        db, books = self._db, Books()
        books.seq = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
        for (body,) in db.execute("SELECT body FROM jobs WHERE ended_at IS NULL ORDER BY submitted_at, key"):
            entry = _entry(body)
            books.jobs[entry.key] = entry
        done = "FROM jobs WHERE ended_at IS NOT NULL AND state = 'finished'"
        books.finished = {key for (key,) in db.execute(f"SELECT key {done}")}
        newest = db.execute(f"SELECT body {done} ORDER BY ended_at DESC LIMIT {KEPT_ENDED}").fetchall()
        books.ended.extend(_entry(body) for (body,) in reversed(newest))
        for name, body in db.execute("SELECT name, body FROM around"):
            _take_around(books, name, json_of(body))
        for (body,) in db.execute("SELECT body FROM teams"):
            used = made(Used, json_of(body))
            books.used[used.team] = used
        for (body,) in db.execute("SELECT body FROM usage"):
            month = made(MonthOf, json_of(body))
            books.months[month.team, month.month] = month
        return books

    def _append(self, books: Books, by: str, at: float, facts: Sequence[Fact]) -> None:
        changed: set[str] = set()
        for fact in facts:
            books.seq += 1
            if isinstance(fact, Weighed):
                put_moment(self._db, books.seq, at, fact)
                continue
            row = (books.seq, at, by, type(fact).__name__, json.dumps(plain(fact)))
            self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
            changed |= books.fold(at, by, fact)
        if facts:
            self._project(books, changed, any(isinstance(fact, AROUND) for fact in facts))

    def _project(self, books: Books, changed: set[str], around: bool = True, whole: bool = False) -> None:
        """Write what is folded beside the facts: jobs that have changed, and the few rows of all else."""
        put = "INSERT INTO {} VALUES ({}) ON CONFLICT DO UPDATE SET {}"
        jobs = put.format(
            "jobs",
            "?, ?, ?, ?, ?, ?",
            "state = excluded.state, team = excluded.team, submitted_at = excluded.submitted_at,"
            " ended_at = excluded.ended_at, body = excluded.body",
        )
        for key in sorted(changed):
            entry = books.jobs[key]
            job = entry.job
            row = (key, job.state.value, job.spec.team, job.submitted_at, entry.ended_at, _json(entry))
            self._db.execute(jobs, row)
        one = put.format("around", "?, ?", "body = excluded.body")
        for name, body in _around_of(books) if around else ():
            self._db.execute(one, (name, json.dumps(body)))
        team = put.format("teams", "?, ?", "body = excluded.body")
        for used in books.used.values():
            self._db.execute(team, (used.team, _json(used)))
        month = put.format("usage", "?, ?, ?", "body = excluded.body")
        newest = max((each.month for each in books.months.values()), default="")
        for each in books.months.values():
            if whole or each.month == newest:
                self._db.execute(month, (each.team, each.month, _json(each)))


def _is_full(error: sqlite3.Error | OSError, folder: Path) -> bool:
    """SQLite tells only of its own file that the disk is full: that there is no room for what it keeps beside
    is an error of reading and writing to it."""
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    kind = (error.sqlite_errorcode or 0) & 0xFF if hasattr(error, "sqlite_errorcode") else 0
    if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free < _LEAST_ROOM_BYTES
    return kind == sqlite3.SQLITE_FULL


def _json(value: Any) -> str:
    return json.dumps(plain(value))


def _entry(body: str) -> Entry:
    return made(Entry, json_of(body))


def _around_of(books: Books) -> list[tuple[str, Any]]:
    return [
        ("drained", sorted(books.drained)),
        ("leader", plain(books.leader)),
        ("nodes", [plain(books.nodes[at]) for at in sorted(books.nodes)]),
        ("reservations", [plain(books.reservations[name]) for name in sorted(books.reservations)]),
    ]


def _take_around(books: Books, name: str, body: Any) -> None:
    match name:
        case "drained":
            books.drained = set(body)
        case "leader":
            books.leader = made(Leader, body)
        case "nodes":
            slots = [made(NodeSlot, each) for each in body]
            books.nodes = {(slot.pool, slot.number): slot for slot in slots}
        case "reservations":
            named = [made(NamedReservation, each) for each in body]
            books.reservations = {each.name: each for each in named}
