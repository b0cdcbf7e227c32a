"""The queue's database: facts are the truth, all else is folded from them, and nothing is half written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.codec import made, plain
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import (
    Began,
    CancelAsked,
    Ended,
    Fact,
    HeldBack,
    LeaderTook,
    Left,
    LetGo,
    MoveMeant,
    NodeBound,
    NodeDrained,
    Reserved,
    StartMeant,
    StopMeant,
    Submitted,
    Tally,
)
from orchestrator.dispatch.local_disk import network_type
from orchestrator.dispatch.store import NAME, Deposed, Store
from orchestrator.dispatch.tables import VERSION
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.fleet.decisions import StartCause, StopCause
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, PoolPlan
from orchestrator.fleet.pools import Reservation
from orchestrator.papers import PaperError

AT = 1_000_000.0
HERE = Placement("h100", (0, 1), (8, 8))


def spec(key: str, team: str = "nlp") -> JobSpec:
    return JobSpec(key, team, (PoolPlan("h100", 16, 2.5),), overrides=("job=tiny", f"run_name={key}"))


def submitted(key: str, team: str = "nlp") -> Submitted:
    return Submitted(spec(key, team), key, "/home/ada")


def say(store: Store, *facts: Fact, at: float = AT) -> Books:
    return store.write("ada", at, lambda _books: facts)


A_LIFE: list[tuple[Fact, ...]] = [
    (submitted("a"), submitted("b", "cv"), submitted("c")),
    (NodeBound("h100", 0, "id-0", "node0"), NodeDrained("node7")),
    (Reserved("r1", Reservation("h100", 1, AT, AT + 60.0, team="cv", why="a demo")),),
    (LeaderTook(1, "head", 4711),),
    (StartMeant("a", 1, HERE, StartCause.WORTH, 3.5),),
    (Began("a", 1),),
    (
        StopMeant("a", 1, StopCause.WORTH, 4.0, 9.0, ("b", "c")),
        StartMeant("b", 1, HERE, StartCause.QUOTA, 5.0, ("a",)),
    ),
    (Left("a", 1, Tally(10, 10, True, 100, 0.5, gpu_s=960.0, usd=2.0)),),
    (Began("b", 1),),
    (MoveMeant("b", 2, Placement("h100", (2, 3), (8, 8)), 1.0, 2.0, "c", ("b",)),),
    (Left("b", 1, Tally(5, 5, True, 50, 0.5, gpu_s=16.0, usd=0.5)),),
    (Began("b", 2), HeldBack("c", "later")),
    (LetGo("c"), CancelAsked("c")),
    (Ended("b", 2, JobState.FINISHED, Tally(50, 50, True, 50, 0.5, gpu_s=999.0, usd=3.0)),),
]


def test_what_was_written_is_there_for_whoever_opens_it_next(tmp_path: Path) -> None:
    for number, facts in enumerate(A_LIFE):
        with Store(tmp_path) as store:
            told = say(store, *facts, at=AT + number)
            before = (told.jobs, told.finished, told.nodes, told.used, told.months, told.leader)
        with Store(tmp_path) as again:
            seen = again.read()
            assert (seen.jobs, seen.finished, seen.nodes, seen.used, seen.months, seen.leader) == before
            assert seen.drained == told.drained
            assert seen.reservations == told.reservations
    with Store(tmp_path) as store:
        assert [entry.key for entry in store.newest_ended(10)] == ["b", "c"]
        assert store.read().finished == {"b"}


def test_projections_are_what_the_facts_fold_to(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number, facts in enumerate(A_LIFE):
            say(store, *facts, at=AT + 86400.0 * 20 * number)  # over several months
        rows = store.rows()
        assert {row[0]: row[1] for row in rows["jobs"]} == {"a": "queued", "b": "finished", "c": "cancelled"}
        assert len(rows["usage"]) > 3
        store.rebuild()
        assert store.rows() == rows


def test_a_reservation_that_is_over_leaves_the_books_with_the_next(tmp_path: Path) -> None:
    def kept(name: str, until_at: float) -> Reserved:
        return Reserved(name, Reservation("h100", 1, AT, until_at, team="cv"))

    with Store(tmp_path) as store:
        say(store, kept("r1", AT + 60.0), kept("r2", AT + 600.0))
        assert set(say(store, kept("r3", AT + 900.0), at=AT + 59.0).reservations) == {"r1", "r2", "r3"}
        assert set(say(store, kept("r4", AT + 900.0), at=AT + 60.0).reservations) == {"r2", "r3", "r4"}
        rows = store.rows()
        store.rebuild()
        assert store.rows() == rows


def test_two_who_write_see_what_the_other_wrote(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as other:
        say(one, submitted("a"))
        say(other, submitted("b"))
        assert set(one.read().jobs) == set(other.read().jobs) == {"a", "b"}


def test_a_stop_is_paid_by_those_it_was_for_and_frees_those_who_wait(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for facts in A_LIFE[:7]:
            books = say(store, *facts)
        assert books.jobs["a"].job.state is JobState.STOPPING
        assert books.jobs["b"].job.waits_for == ("a",)
        assert (books.jobs["b"].paid_usd, books.jobs["c"].paid_usd) == (2.0, 2.0)
        assert {team: month.stops_usd for (team, _), month in books.months.items()} == {"cv": 2.0, "nlp": 2.0}
        books = say(store, *A_LIFE[7], at=AT + 60.0)
        a, b = books.jobs["a"], books.jobs["b"]
        assert (a.job.state, a.job.placement, a.job.preemptions) == (JobState.QUEUED, None, 1)
        assert (a.job.ran_s, a.job.saved_step, a.job.spent_usd) == (60.0, 10, 2.0)
        assert b.job.waits_for == ()
        assert books.used["nlp"].gpu_s == 960.0


def test_a_stop_because_of_a_node_is_none_for_others(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for facts in A_LIFE[:6]:
            say(store, *facts)
        say(store, StopMeant("a", 1, StopCause.NODE, 0.0, 0.0, ()))
        a = say(store, Left("a", 1, Tally(10, 10, True))).jobs["a"]
        assert (a.job.state, a.job.preemptions) == (JobState.QUEUED, 0)


def test_who_is_cancelled_while_it_runs_leaves_first(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for facts in A_LIFE[:6]:
            say(store, *facts)
        books = say(store, HeldBack("a", "later"), CancelAsked("a"), HeldBack("a", "no"))
        assert books.jobs["a"].job.state is JobState.STOPPING
        say(store, Left("a", 1, Tally()))
        entry = store.entry("a")
        assert entry is not None
        assert entry.job.state is JobState.CANCELLED


def test_what_a_chooser_raises_leaves_all_as_it_was(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        say(store, submitted("a"))

        def refuse(books: Books) -> list[Fact]:
            books.fold(AT, "ada", submitted("x"))
            raise ConfigError("no")

        with pytest.raises(ConfigError, match="no"):
            store.write("ada", AT, refuse)
        assert set(store.read().jobs) == {"a"}
        assert len(list(store.facts())) == 1


def test_a_key_is_there_once(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        say(store, submitted("a"))
        row = ("a", "queued", "x", 0.0, None, "{}")
        with pytest.raises(sqlite3.IntegrityError), sqlite3.connect(store.path) as db:
            db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)", row)


def test_an_older_daemon_may_write_nothing_more(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        say(store, submitted("a"), LeaderTook(2, "head", 12))
        store.write("daemon", AT, lambda _books: [HeldBack("a", "x")], epoch=2)
        with pytest.raises(Deposed, match=r"another daemon leads \(process 12 on head\)"):
            store.write("daemon", AT, lambda _books: [LetGo("a")], epoch=1)
        assert store.read().jobs["a"].job.state is JobState.HELD


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        say(store, submitted("a"))
        with closing(sqlite3.connect(store.path)) as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
    with Store(tmp_path, most_pages=pages + 2) as small:
        many = [submitted(f"job-{number}") for number in range(2000)]
        with pytest.raises(
            RunDirectoryError, match=r"fleet\.db: the disk is full; nothing was written, make room"
        ):
            say(small, *many)
        assert set(small.read().jobs) == {"a"}
        say(small, HeldBack("a", "x"))
    with Store(tmp_path) as store:
        assert set(store.read().jobs) == {"a"}
        rows = store.rows()
        store.rebuild()
        assert store.rows() == rows


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ConfigError, match=r"newer version of orchestrator \(its tables have version 3"):
        Store(tmp_path)


def test_what_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"x" * 8192)
    with pytest.raises(RunDirectoryError, match=r"fleet\.db: file is not a database; nothing was written"):
        Store(tmp_path)


MOUNTS = """\
22 1 0:21 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /shared rw - nfs4 server:/x rw
31 22 0:41 / /shared/local rw - xfs /dev/sdb rw
32 22 0:42 / /with\\040space rw - fuse.sshfs h: rw
"""


def test_a_disk_of_the_network_is_known_by_its_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_type(Path("/home/ada"), MOUNTS) is None
    assert network_type(Path("/shared/runs"), MOUNTS) == "nfs4"
    assert network_type(Path("/shared/local/x"), MOUNTS) is None
    assert network_type(Path("/sharedx"), MOUNTS) is None
    assert network_type(Path("/with space/x"), MOUNTS) == "fuse.sshfs"
    monkeypatch.setattr("orchestrator.dispatch.store.network_type", lambda _folder: "nfs4")
    with pytest.raises(ConfigError, match=r"file system of the network \(nfs4\).*state_dir: PATH"):
        Store(tmp_path)


def test_what_is_read_back_is_what_was_written() -> None:
    for facts in A_LIFE:
        for fact in facts:
            assert made(type(fact), plain(fact)) == fact
    books = Books()
    books.fold(AT, "ada", submitted("a"))
    assert made(Entry, plain(books.jobs["a"])) == books.jobs["a"]
    bad: list[object] = [[], {"job": 1}, {"job": "a", "more": 1}, {}]
    for body in bad:
        with pytest.raises(PaperError):
            made(LetGo, body)
