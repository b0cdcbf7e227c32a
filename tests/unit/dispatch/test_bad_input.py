"""What cannot be, as people type it: each is refused in one line that says what to type instead, and nothing
of it is written."""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli.cli import main
from orchestrator.dispatch.facts import Ended, Fact, LeaderTook, StartMeant, Submitted, Tallied, Tally
from orchestrator.dispatch.serve import LOCK
from orchestrator.dispatch.store import NAME, Store
from orchestrator.dispatch.tables import VERSION
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, PoolPlan

FLEET = """
pools:
  big: {nodes: 4, gpus_per_node: 8, usd_per_gpu_hour: 2.5, words: [cluster=dgx_h100], labels: {gpu: h100}}
  small: {nodes: 2, gpus_per_node: 8, usd_per_gpu_hour: 1.1, words: [cluster=dgx_a100]}
teams: {nlp: {quota: {big: 16}}, cv: {usd_per_month: 500}}
classes: {batch: {default: true}, product: {usd_per_hour: 100}}
"""
LLAMA = ["job=llama3_8b", "cluster.nodes=2", "job.steps=2000"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Refuses:
    """Types a command and reads what it is told."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str, code: int = 2) -> str:
        self._capsys.readouterr()
        assert main(list(args)) == code
        told = self._capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        return told.err.strip().removeprefix("error: ")


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Refuses:
    return Refuses(capsys)


def say(folder: Path, *facts: Fact) -> None:
    with Store(folder / "runs" / "fleet") as store:
        store.write("ada", time.time(), lambda _books: facts)


def queued(key: str, **spec: object) -> Submitted:
    return Submitted(JobSpec(key, "nlp", (PoolPlan("big", 8, 1.0),), **spec), key, "/")  # type: ignore[arg-type]


def test_a_gang_larger_than_every_pool_is_told_the_largest_that_fits(refused: Refuses) -> None:
    assert refused("submit", "team=nlp", "job=llama3_8b", "cluster.nodes=5") == (
        "cluster.nodes × cluster.gpus_per_node is 40, and pool big has 32 (4 nodes of 8), small has 16 (2 nodes"
        " of 8): it would wait for ever; the largest that fits is cluster.nodes=4 cluster.gpus_per_node=8, of"
        " big"
    )
    said = refused("submit", "team=nlp", "pool=small,big", "job=llama3_8b", "cluster.nodes=3")
    assert "is 24, and pool small has 16 (2 nodes of 8): it would wait for ever" in said


def test_a_deadline_that_cannot_be_met_says_by_how_much_and_which_could(refused: Refuses) -> None:
    said = refused("submit", "team=nlp", "deadline=30m", *LLAMA)
    assert said.startswith("deadline='30m': cannot be met: as things are it ends ")
    assert (
        " at the earliest, 19:" in said or " at the earliest, 18:" in said or " at the earliest, 20:" in said
    )
    late = said.partition("give deadline='")[2].partition("'")[0]
    assert main(["submit", "team=nlp", "key=a", f"deadline={late}", *LLAMA]) == 0
    moved = refused("move", "a", "deadline=1h")
    assert moved.startswith("deadline='1h': cannot be met: as things are it ends ")
    assert refused("move", "a", "deadline=2020-01-01").startswith("deadline='2020-01-01': is past")
    assert refused("submit", "team=nlp", "deadline=2020-01-01", *LLAMA).startswith(
        "deadline='2020-01-01': is past (it is "
    )


def test_quotas_beyond_the_pool_are_refused_by_every_verb(folder: Path, refused: Refuses) -> None:
    (folder / "runs" / "fleet.yaml").write_text(FLEET.replace("cv: {", "cv: {quota: {big: 24}, "))
    for verb in ("queue", "quota", "dispatch"):
        said = refused(verb)
        assert "quotas of big add up to 40 (nlp 16 + cv 24), and it has 32 (4 nodes of 8); lower one" in said


def test_a_key_that_nothing_acts_upon_is_refused(folder: Path, refused: Refuses) -> None:
    (folder / "runs" / "fleet.yaml").write_text(FLEET.replace("cv: {", "cv: {parent: nlp, "))
    assert "teams.cv.parent: there is no such key" in refused("queue")


def test_reservations_that_overlap_are_refused_and_told_which(refused: Refuses) -> None:
    assert main(["reserve", "team=cv", "pool=small", "nodes=2", "until=2h", "name=show"]) == 0
    said = refused("reserve", "team=nlp", "pool=small", "nodes=1", "from=1h", "until=3h")
    assert said.startswith("nodes=1: overlaps with show (2 nodes until ")
    assert "small has 0 nodes left of 2" in said
    assert said.endswith("or end one with 'reserve name=show --off'")
    assert refused("reserve", "team=nlp", "nodes=1", "until=1h").startswith("pool: which one? there are big")
    assert "name='shaw': no such reservation; did you mean 'show'" in refused("reserve", "name=shaw", "--off")
    assert refused("reserve", "--off") == "reserve --off: which one? there are show; say name=NAME"


def test_nodes_are_not_reserved_for_a_job_that_may_not_run_there(folder: Path, refused: Refuses) -> None:
    say(folder, queued("a"))
    said = refused("reserve", "job=a", "pool=small", "nodes=1", "until=1h")
    assert said == ("pool=small: a may run in big only; reserve there, or move it first: 'move a pool=small'")


def test_what_depends_on_itself_or_on_what_never_comes_is_refused(refused: Refuses) -> None:
    assert refused("submit", "team=nlp", "key=a", "after=a", *LLAMA) == (
        "after=a: a job cannot wait for itself; leave it out"
    )
    # A circle needs one of its jobs to be submitted before the one that it waits for.
    assert main(["submit", "team=nlp", "key=first", *LLAMA]) == 0
    assert main(["submit", "team=nlp", "key=second", "after=first", *LLAMA]) == 0
    said = refused("submit", "team=nlp", "key=first", "after=second", *LLAMA)
    assert said.startswith("key=first: is queued with after=none, and this says after=second; say the same")
    # Nor is one made by what goes on again.
    assert main(["cancel", "first"]) == 0
    said = refused("submit", "--again", "team=nlp", "key=first", "after=second", *LLAMA)
    assert said == "after=second: comes after first itself; leave it out"
    said = refused("submit", "team=nlp", "key=third", "after=secund", *LLAMA)
    assert "after='secund': there is no such job in the queue, nor one that has finished; did you" in said


def test_who_waits_for_a_job_that_failed_is_told_that_it_waits_for_ever(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(folder, queued("a"), queued("b", depends_on=("a",)))
    here = Placement("big", (0,), (8,))
    say(folder, StartMeant("a", 1, here, StartCause.WORTH, 1.0))
    say(folder, Ended("a", 1, JobState.FAILED, Tally(), "out of memory"))
    assert main(["queue", "--why", "b"]) == 0
    said = capsys.readouterr().out
    assert "it comes after a, which has ended and not finished; cancel it, or have that go on with" in said


def test_a_team_whose_budget_is_spent_is_told_where_to_raise_it(folder: Path, refused: Refuses) -> None:
    spec = JobSpec("a", "cv", (PoolPlan("big", 8, 1.0),))
    say(
        folder,
        Submitted(spec, "a", "/"),
        StartMeant("a", 1, Placement("big", (0,), (8,)), StartCause.WORTH, 1.0),
    )
    say(folder, Tallied("a", Tally(gpu_s=3600.0, usd=512.5)))
    said = refused("submit", "team=cv", *LLAMA)
    assert said.startswith("team=cv: has spent its budget of ")
    assert "($512.50 of $500.00); raise teams.cv.usd_per_month in " in said


def test_a_second_daemon_is_refused(folder: Path, refused: Refuses) -> None:
    Store(folder / "runs" / "fleet").close()
    with (folder / "runs" / "fleet" / LOCK).open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        said = refused("dispatch")
    assert "a daemon leads this queue already (process 4711)" in said
    assert said.endswith("leave it, or end it with 'orchestrator dispatch --stop'")


def test_a_database_of_a_newer_version_is_left_as_it_is(folder: Path, refused: Refuses) -> None:
    say(folder, queued("a"), LeaderTook(1, "head", 1))
    path = folder / "runs" / "fleet" / NAME
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    for words in (
        ["queue"],
        ["submit", "team=nlp", *LLAMA],
        ["cancel", "a"],
        ["fleet", "page", "--html", "x"],
    ):
        assert "was written by a newer version of orchestrator" in refused(*words)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_nothing_half_written(
    folder: Path, refused: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(folder, queued("a"))
    with sqlite3.connect(folder / "runs" / "fleet" / NAME) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    prepare = Store._prepare

    def full(store: Store, _most_pages: int | None) -> None:
        prepare(store, pages)

    monkeypatch.setattr(Store, "_prepare", full)
    words = ["submit", "team=nlp", "pool=big", "-m", "key=two", "job.seed=1,2", *LLAMA]
    words.append(f"env.NOTE={'x' * 16_000}")
    said = refused(*words, code=4)  # no input of anybody's: the disk
    assert "full; nothing was written, make room on that disk and type it again" in said
    monkeypatch.setattr(Store, "_prepare", prepare)
    with Store(folder / "runs" / "fleet") as store:
        assert set(store.read().jobs) == {"a"}
        rows = store.rows()
        store.rebuild()
        assert store.rows() == rows


def test_a_disk_without_room_for_what_lies_beside_the_database_is_called_full(
    folder: Path, refused: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_store: Store, _most_pages: int | None) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE  # as on a disk that is full to the last block
        raise error

    monkeypatch.setattr(Store, "_prepare", no_room)
    assert "fleet.db: disk I/O error; nothing was written, mend that" in refused("queue", code=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=0))
    assert "fleet.db: the disk is full; nothing was written, make room on that" in refused("queue", code=4)


def test_a_folder_that_cannot_be_is_told_and_not_thrown(folder: Path, refused: Refuses) -> None:
    (folder / "runs" / "fleet").write_text("no folder")
    said = "daemon.lock: Not a directory; no daemon leads: mend that, and type 'orchestrator dispatch' again"
    assert said in refused("dispatch", code=4)
    assert "nothing was written, mend that and type it again" in refused("queue", code=4)


def test_a_budget_that_will_not_do_is_refused_before_the_job_waits_for_its_gpus(
    folder: Path, refused: Refuses, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused("submit", "team=nlp", *LLAMA, "budget.usd=20")
    assert said.startswith("budget.usd=20: too little, by its plan the run takes $")
    assert "budget.may_fall_short=true" in said
    assert refused("submit", "team=nlp", *LLAMA, "budget.deadline=2020-01-01").startswith(
        "budget.deadline=2020-01-01: is over"
    )
    (folder / "runs" / "budgets.yaml").write_text("- {project: lm, period: month, usd: 0}\n")
    said = refused("submit", "team=nlp", *LLAMA, "project=lm")
    assert "of what project=lm may spend this month $0.00 is neither spent nor claimed by other runs" in said
    assert refused("submit", "--dry-run", "team=nlp", *LLAMA, "project=lm") == said
    assert (
        main(["submit", "--dry-run", "team=nlp", *LLAMA, "budget.usd=20", "budget.may_fall_short=true"]) == 0
    )
    assert "budget.usd=20: will not do, by its plan the run takes $" in capsys.readouterr().out


def test_what_was_submitted_is_not_refused_when_it_is_sent_again_once_the_budget_is_spent(
    folder: Path, refused: Refuses
) -> None:
    words = ["submit", "team=nlp", "key=a", "project=lm", *LLAMA]
    assert main(words) == 0
    (folder / "runs" / "budgets.yaml").write_text("- {project: lm, period: month, usd: 0}\n")
    assert main(words) == 0
    assert "may spend this month" in refused(*words[:2], "key=b", *words[3:])


def test_nobody_is_let_go_whom_nothing_holds(refused: Refuses) -> None:
    assert main(["submit", "team=nlp", "key=a", "--no-forecast", *LLAMA]) == 0
    assert refused("hold", "a", "--off") == (
        "a: nothing holds it, it is queued; 'queue --why a' says what it waits for"
    )
    assert main(["hold", "a"]) == 0
    assert main(["hold", "a", "--off"]) == 0
