"""The tables of the queue's database, of this version and made of those of an earlier one; and what is done
to them beside appending facts."""

from __future__ import annotations

import json
import sqlite3
import zlib

from orchestrator.dispatch.codec import plain
from orchestrator.dispatch.facts import Weighed
from orchestrator.papers import PaperError

VERSION = 2
# SQLite's place for who made a file: "orcf".
APPLICATION = 0x6F726366
_TABLES = """
CREATE TABLE events (seq INTEGER PRIMARY KEY, at REAL NOT NULL, said_by TEXT NOT NULL, kind TEXT NOT NULL,
                     body TEXT NOT NULL) STRICT;
CREATE TABLE jobs (key TEXT PRIMARY KEY, state TEXT NOT NULL, team TEXT NOT NULL, submitted_at REAL NOT NULL,
                   ended_at REAL, body TEXT NOT NULL) STRICT;
CREATE INDEX jobs_live ON jobs (submitted_at) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE teams (team TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE usage (team TEXT NOT NULL, month TEXT NOT NULL, body TEXT NOT NULL,
                    PRIMARY KEY (team, month)) STRICT;
CREATE TABLE around (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
"""
# Since version 2: before, what decisions were made upon was among the events. Those of an earlier version
# stay there, where the last index finds them, until they are forgotten.
_MOMENTS = """
CREATE TABLE moments (seq INTEGER PRIMARY KEY, at REAL NOT NULL, whole INTEGER NOT NULL, body BLOB NOT NULL)
                     STRICT;
CREATE INDEX moments_whole ON moments (at) WHERE whole;
CREATE INDEX events_moments ON events (at) WHERE kind IN ('Decided', 'FleetSeen', 'NodesSeen');
"""
_OLD_MOMENTS = "kind IN ('Decided', 'FleetSeen', 'NodesSeen')"
# A decision for 200,000 nodes is read as well.
MOST_VALUES = 20_000_000

FACTS = "SELECT * FROM events WHERE {} ORDER BY seq"
ONLY_EVENTS = f"NOT {_OLD_MOMENTS}"
ALL_FACTS = (
    f"SELECT * FROM events UNION ALL SELECT seq, at, '', '{Weighed.__name__}', body FROM moments ORDER BY seq"
)


def bring_up(db: sqlite3.Connection, version: int) -> None:
    """Make what a database of that version lacks, 0 being none."""
    for since, statements in ((1, _TABLES), (2, _MOMENTS)):
        for statement in statements.split(";\n") if version < since else ():
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def put_moment(db: sqlite3.Connection, seq: int, at: float, fact: Weighed) -> None:
    packed = zlib.compress(json.dumps(plain(fact), separators=(",", ":")).encode())
    db.execute("INSERT INTO moments VALUES (?, ?, ?, ?)", (seq, at, int(fact.whole), packed))


def unpacked(body: str | bytes) -> str | bytes:
    """The text of a fact's body. Raises :class:`PaperError`."""
    try:
        return zlib.decompress(body) if isinstance(body, bytes) else body
    except zlib.error as error:
        raise PaperError(f"what a decision was made upon cannot be unpacked ({error})") from None


def forget_moments(db: sqlite3.Connection, before: float, most: int) -> int:
    """So many of either kind at most; returns how many went. The newest whole one before that time stays, as
    those after it begin with it; of the earlier version's the newest of each kind does."""
    whole = "SELECT max(seq) FROM moments WHERE whole AND at < ?"
    moments = f"SELECT seq FROM moments WHERE seq < ({whole}) ORDER BY seq LIMIT ?"
    old = f"FROM events WHERE {_OLD_MOMENTS} AND at < ?"
    newest = f"SELECT max(seq) {old} GROUP BY kind"
    events = f"SELECT seq {old} AND seq NOT IN ({newest}) LIMIT ?"
    gone = db.execute(f"DELETE FROM moments WHERE seq IN ({moments})", (before, most)).rowcount
    return gone + db.execute(f"DELETE FROM events WHERE seq IN ({events})", (before, before, most)).rowcount
