"""What is derived from a journal, kept beside it, so that a long one need not be folded from its beginning
again.

The journal stays the truth. The fold in ``journal.fold`` is of its first so many bytes and holds for exactly
those: their hash is kept with it and compared with that of the bytes that are there now, which takes a tenth
of a second for a million steps. A fold that is missing, torn, of other code (its hash is kept too) or of
other bytes is as good as none, and is made anew. Nobody waits for it to be on the disk, and where it cannot
be written nothing is lost.

It is a pickle, of our own classes and nothing else: what names anything else is not loaded. A few bytes of
one may still ask for all memory, or make a fold that lies. So none is loaded that this user has not written:
each is signed with a key that lies beside the record of `up`, readable by its owner alone. Who has another
key, or no home to keep one in, folds the journal.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import io
import json
import pickle
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import (
    budget_events,
    checkpoint_events,
    event,
    events,
    papers,
    records,
    script_events,
    text,
    vocabulary,
)
from orchestrator.cluster.warm.record import make_state_dir, state_dir
from orchestrator.driver import folded
from orchestrator.driver.folded import Folded
from orchestrator.errors import ClusterError, JournalError
from orchestrator.files import atomic_write
from orchestrator.ledger import (
    bill,
    charge,
    checkpoint_lines,
    energy,
    incident,
    incidents,
    ledger,
    meter,
    money,
    predicted_actual,
    rates,
    stop_times,
    story,
)
from orchestrator.ledger.journal import Mark, Tail
from orchestrator.supervise import history, loop, loss_watch, spending
from orchestrator.trust import why_not_ours

NAME = "journal.fold"
# A driver that is killed leaves at most so many records that are not in the fold: a tenth of a second to
# read.
EVERY_RECORDS = 10_000
# Read back by the driver that many at a time, so that a look at the ranks never waits for it.
AT_ONCE = 250
_BLOCK_BYTES = 8 << 20
_KEY, _KEY_BYTES = "fold.key", 32
_MOST_BYTES = 256 << 20
_CODE = (bill, budget_events, charge, checkpoint_events, checkpoint_lines, energy, event, events, folded,
         history, incident, incidents, ledger, loop, loss_watch, meter, money, predicted_actual, rates,
         records, script_events, spending, stop_times, story, text, vocabulary)  # fmt: skip
_CLASSES = {
    (module.__name__, name): kind
    for module in _CODE
    for name, kind in vars(module).items()
    if isinstance(kind, type) and kind.__module__ == module.__name__
}
_FOREIGN = {("array", "array"), ("array", "_array_reconstructor"), ("collections", "deque")}


@dataclass(frozen=True)
class Stamp:
    """By which a file that nobody has touched since is known again."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @staticmethod
    def of(path: Path) -> Stamp | None:
        with contextlib.suppress(OSError):
            seen = path.stat()
            return Stamp(seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        return None


class JournalFold:
    """The fold of one run's journal, from what lies beside it and what has been appended since.

    With ``stamp_is_enough`` a journal that has not been touched since it was folded (inode, size and times
    are those of then) is not hashed: many finished runs are looked at quickly so.
    """

    def __init__(self, run_dir: Path, stamp_is_enough: bool = False) -> None:
        self.path = run_dir / "journal.jsonl"
        self._beside = run_dir / NAME
        self._digest: Any = hashlib.blake2b()
        self.folded = Folded()
        self._stamp: Stamp | None = None
        self._kept_stamp: Stamp | None = None
        self._kept_bytes = self._kept_seq = 0
        with contextlib.suppress(Exception):  # whatever is wrong with it, it is only a fold
            if (key := _own_key(make=False)) is not None:
                self._load(key, stamp_is_enough)
        self._tail = Tail(self.path, self._mark_of(self._kept_bytes), self._digest)

    @property
    def mark(self) -> Mark | None:
        """Up to where the journal is folded; None at its beginning."""
        return self._mark_of(self._tail.offset)

    def catch_up(self) -> Folded:
        """Fold what has been appended since; raises :class:`~orchestrator.errors.JournalError` for damage."""
        before = Stamp.of(self.path)
        while records := self._tail.read():
            for record in records:
                self.folded.fold(record)
        if before == Stamp.of(self.path) and before is not None and before.size_bytes == self._tail.offset:
            self._stamp = before
        return self.folded

    def appended(self, record: events.Record) -> None:
        """The driver has appended a record: now and then they are read back, and more seldom the fold is
        kept."""
        if record.event.durable and record.seq % AT_ONCE == 0:
            with contextlib.suppress(JournalError):  # whoever damaged it: the next reader says so
                self.catch_up()
                self.keep_if_worth_it()

    def finish(self) -> None:
        """The driver has appended its last record."""
        with contextlib.suppress(JournalError):
            self.catch_up()
            self.keep()

    def keep_if_worth_it(self) -> None:
        """Keep the fold where the next reader would otherwise read much of the journal."""
        last = self.folded.last
        moved = isinstance(self.folded.driver, events.RunEnded) and self._stamp not in (
            None,
            self._kept_stamp,
        )
        if last is not None and (last.seq + 1 - self._kept_seq >= EVERY_RECORDS or moved):
            self.keep()

    def keep(self) -> None:
        """Write the fold beside the journal; where it cannot be written there is none."""
        last = self.folded.last
        key = _own_key(make=True)
        if last is None or key is None:
            return
        body = pickle.dumps(self.folded)
        digest = self._digest if self._digest is not None else _digest_of(self.path, self._tail.offset)
        head = {
            "code": code_hash(),
            "bytes": self._tail.offset,
            "blake2b": digest.hexdigest(),
            "stamp": self._stamp and vars(self._stamp),
        }
        head["signed"] = _signature(key, head, body)
        try:
            atomic_write(self._beside, json.dumps(head).encode() + b"\n" + body, durable=False)
        except OSError:
            return
        self._kept_seq, self._kept_stamp = last.seq + 1, self._stamp

    def copy(self) -> Folded:
        """The fold as it stands, for somebody who goes on with it."""
        copied = pickle.loads(pickle.dumps(self.folded))
        assert isinstance(copied, Folded)
        return copied

    def _load(self, key: bytes, stamp_is_enough: bool) -> None:
        first, _, body = papers.read_bytes(self._beside, _MOST_BYTES).partition(b"\n")
        head = papers.json_of(first)
        signed = head.pop("signed")
        if head["code"] != code_hash() or not hmac.compare_digest(signed, _signature(key, head, body)):
            return
        stamp = Stamp(**head["stamp"]) if head["stamp"] else None
        untouched = stamp is not None and stamp.size_bytes == head["bytes"] and stamp == Stamp.of(self.path)
        digest = None
        if not (stamp_is_enough and untouched):
            digest = _digest_of(self.path, head["bytes"])
            if digest.hexdigest() != head["blake2b"]:
                return
        loaded = _Unpickler(io.BytesIO(body)).load()
        if isinstance(loaded, Folded) and loaded.last is not None:
            self.folded, self._digest, self._kept_stamp = loaded, digest, stamp
            self._kept_bytes, self._kept_seq = head["bytes"], loaded.last.seq + 1

    def _mark_of(self, offset: int) -> Mark | None:
        last = self.folded.last
        return Mark(offset, last) if last is not None else None


def _own_key(make: bool) -> bytes | None:
    """This user's, drawn once; None where there is none (yet), or no place that is nobody else's to keep it
    in."""
    try:
        folder = make_state_dir() if make else state_dir()
        if folder is None or why_not_ours(folder) is not None:
            return None
        path = folder / _KEY
        if make and not path.exists():
            atomic_write(path, secrets.token_bytes(_KEY_BYTES), 0o600)
        key = papers.read_bytes(path, _KEY_BYTES)
        return key if len(key) == _KEY_BYTES else None
    except (OSError, ValueError, ClusterError):
        return None


def _signature(key: bytes, head: dict[str, Any], body: bytes) -> str:
    return hashlib.blake2b(json.dumps(head, sort_keys=True).encode() + b"\n" + body, key=key).hexdigest()


@functools.cache
def code_hash() -> str:
    """Of the code that folds and of the Python that pickles: a fold of another one may mean something else.
    Once for a process, whose code stays what it is, and which may look at a thousand runs."""
    digest = hashlib.blake2b(sys.version.encode(), digest_size=16)
    for module in _CODE:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _digest_of(path: Path, count: int) -> Any:
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while count and (data := file.read(min(count, _BLOCK_BYTES))):
            digest.update(data)
            count -= len(data)
    if count:
        raise JournalError(f"{path} is {count} bytes shorter than it was")
    return digest


class _Unpickler(pickle.Unpickler):
    """Knows our classes only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _FOREIGN:
            return super().find_class(module, name)
        return _CLASSES[module, name]
