"""Decisions of a queue, made again from its own facts."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.cli import main
from orchestrator.dispatch.codec import made, plain
from orchestrator.dispatch.facts import SeenNode, StartMeant, Tally, Weighed
from orchestrator.dispatch.fleet_file import FleetFile, PoolEntry
from orchestrator.dispatch.moments import WHOLE_EVERY, Recalled, Recorder
from orchestrator.dispatch.replay import replay_of, replayed
from orchestrator.dispatch.store import NAME, Deposed, Store
from orchestrator.errors import RunDirectoryError
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Decision, Start, StartCause
from orchestrator.fleet.jobs import Placement
from orchestrator.fleet.pools import Pool
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.world import World
from tests.support.dispatch_world import FakeCluster


def played(folder: Path) -> FakeCluster:
    """A day in which the file, the nodes and the daemon change."""
    cluster = FakeCluster(folder, nodes=2)
    daemon = cluster.daemon()

    def pass_by(ticks: int) -> None:
        for _ in range(ticks):
            daemon.step()
            cluster.tick()

    cluster.submit("long", 16, 60, usd_per_hour=1.0)
    pass_by(20)
    cluster.submit("short", 8, 5, usd_per_hour=1000.0)
    pass_by(6)
    cluster.fleet = replace(cluster.fleet, policy=replace(cluster.fleet.policy, aging=0.5))
    cluster.submit("other", 4, 5, team="cv")
    pass_by(4)
    daemon = cluster.daemon()
    assert cluster.nodes is not None
    cluster.nodes = cluster.nodes[:1]
    cluster.submit("late", 2, 5, team="cv", usd_per_hour=5000.0)
    pass_by(80)
    return cluster


ONE_POOL = FleetFile(Path(), Path(), (PoolEntry(Pool("gpus", 1, 8)),))


def test_a_day_comes_out_the_same_and_what_has_not_changed_is_on_record_once(tmp_path: Path) -> None:
    cluster = played(tmp_path)
    again = replay_of(cluster.looks.facts())
    assert again.differing == []
    facts = [fact for _, _, fact in cluster.looks.facts()]
    seen = [fact for fact in facts if isinstance(fact, Weighed)]
    assert [fact.fleet.policy.aging for fact in seen if fact.fleet is not None] == [0.1, 0.5, 0.5], (
        "once, when it changes, and the next daemon's"
    )
    assert [fact.whole for fact in seen] == [True, False, False, True]
    assert [len(fact.came) for fact in seen] == [2, 0, 0, 1]
    moments = list(replayed(cluster.looks.facts()))
    assert again.decisions == len(moments) > 3
    assert sum(len(moment.then) for moment in moments) > 4, "one stopped another"


def test_another_policy_is_found_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played(tmp_path)
    assert main(["simulate", "--replay", str(tmp_path)]) == 0
    assert "decided again, all come out the same" in capsys.readouterr().out

    def otherwise(world: World, policy: Policy) -> tuple[Decision, ...]:
        return tuple(
            replace(one, epoch=9) if isinstance(one, Start) and one.job == "short" else one
            for one in decide(world, policy)
        )

    monkeypatch.setattr("orchestrator.dispatch.replay.decide", otherwise)
    assert main(["simulate", "--replay", str(tmp_path / "fleet.db")]) == 1
    said = capsys.readouterr().out
    assert "1 come out otherwise" in said
    assert "then: " in said
    assert main(["simulate", "--replay", str(tmp_path), "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert (len(body["differing"]), "epoch=9" in body["differing"][0]["now"][-1]) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--replay", "/no/such"], "--replay=/no/such: there is no fleet.db"),
        (["--replay", ".", "--gpus", "4"], "--gpus: says nothing to --replay"),
        (["--replay", ".", "--csv"], "--csv: says nothing to --replay"),
        (["--replay", ".", "scenario=h100_2023"], "--replay: a scenario was named, too"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_queue_without_decisions_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCluster(tmp_path, nodes=1)
    assert main(["simulate", "--replay", str(tmp_path)]) == 0
    assert "nothing was decided there" in capsys.readouterr().out


def test_what_could_not_be_written_is_on_record_with_the_next_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(tmp_path, nodes=1)
    cluster.submit("a", 8, 3)
    daemon = cluster.daemon()
    write, full = daemon.store.write, [True]

    def fails_once(*args: object) -> object:
        choose = args[2]
        assert callable(choose)
        if full and "choose" in choose.__qualname__:
            choose(daemon.store.read())
            full.clear()
            raise RunDirectoryError("the disk is full")
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(daemon.store, "write", fails_once)
    with pytest.raises(RunDirectoryError):
        daemon.step()
    for _ in range(8):
        daemon.step()
        cluster.tick()
    again = replay_of(cluster.looks.facts())
    assert (again.decisions, again.differing) == (1, [])


KEPT = Path(__file__).with_name("queue_of_version_1.sql")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The queue of :func:`played` as the version before wrote it, with all moments among the events."""
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        db.executescript(KEPT.read_text())
    return tmp_path


def test_the_queue_of_an_earlier_version_goes_on_and_its_decisions_come_out_the_same(older: Path) -> None:
    with Store(older) as store:
        again = replay_of(store.facts())
        assert (again.decisions, again.differing) == (4, [])
        rows = store.rows()
        assert {row[0]: row[1] for row in rows["jobs"]} == {
            "late": "finished", "long": "queued", "other": "finished", "short": "finished",
        }  # fmt: skip
        store.rebuild()
        assert store.rows() == rows
        epoch = store.read().leader.epoch
        last_unix_s = again.last_unix_s
        assert last_unix_s is not None
        assert store.forget_moments(last_unix_s, epoch) > 0
        left = replay_of(store.facts())
        assert (left.decisions, left.last_unix_s, left.differing) == (2, last_unix_s, [])
        store.rebuild()
        assert store.rows() == rows
    cluster = FakeCluster(older, nodes=1)
    cluster.now = last_unix_s + 1000.0
    cluster.submit("new", 2, 3)
    daemon = cluster.daemon()
    for _ in range(5):
        daemon.step()
    again = replay_of(cluster.looks.facts())
    assert (again.decisions, again.differing) == (3, [])


def test_what_decisions_were_made_upon_is_forgotten_after_a_while_and_the_rest_is_decided_again(
    tmp_path: Path,
) -> None:
    cluster = FakeCluster(tmp_path, nodes=2)
    cluster.fleet = replace(cluster.fleet, keep_decisions_days=0.01)
    daemon = cluster.daemon()
    for number in range(30):
        cluster.submit(f"job-{number}", 8, 4)
        for _ in range(8):
            daemon.step()
            cluster.tick()
        if number % 10 == 9:
            daemon = cluster.daemon()
    before, rows = replay_of(cluster.looks.facts()), cluster.looks.rows()
    assert before.differing == []
    facts = [fact for _, _, fact in cluster.looks.facts() if not isinstance(fact, Weighed)]
    daemon.step()
    daemon.forget_moments()
    after = replay_of(cluster.looks.facts())
    assert 0 < after.decisions < before.decisions
    assert after.differing == []
    assert after.first_unix_s is not None
    assert after.first_unix_s <= cluster.now - 0.01 * 86400.0, "from the whole one before that"
    assert (after.last_unix_s, cluster.looks.rows()) == (before.last_unix_s, rows)
    assert [fact for _, _, fact in cluster.looks.facts() if not isinstance(fact, Weighed)] == facts
    assert daemon.store.forget_moments(cluster.now - 0.01 * 86400.0, daemon.epoch) == 0
    with pytest.raises(Deposed):
        daemon.store.forget_moments(cluster.now, daemon.epoch - 1)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_what_moments_tell_is_what_was_seen(seed: int) -> None:
    dice = random.Random(seed)
    recorder, recalled = Recorder(), Recalled()
    for number in range(WHOLE_EVERY + 20):
        running = [key for key in "abcdefg" if dice.random() < 0.8]
        progress = {
            key: Tally(dice.randrange(50), dice.randrange(50), dice.random() < 0.5, 50, dice.random())
            for key in running
            if dice.random() < 0.9
        }
        nodes = [
            SeenNode(
                f"id-{dice.randrange(3)}-{place}", "h", 1.0, 8.0,
                cluster=dice.choice(["", "b"]), avoided=dice.random() < 0.5,
            )
            for place in range(3)
        ]  # fmt: skip
        aging = dice.choice((0.1, 0.2))
        here = replace(ONE_POOL, policy=Policy(aging=aging))
        started = StartMeant("x", number, Placement("gpus", (0,), (8,)), StartCause.WORTH, 1.0)
        weighed, _ = recorder.with_what_was_seen([started], here, nodes, progress, running)
        assert isinstance(weighed, Weighed)
        assert weighed.whole == (number % WHOLE_EVERY == 0)
        recalled.take(made(Weighed, json.loads(json.dumps(plain(weighed)))), running)
        assert recalled.tallies == progress
        assert set(recalled.nodes) == set(nodes)
        assert recalled.fleet is not None
        assert (recalled.fleet.policy, recalled.fleet.pools[0].pool) == (here.policy, here.pools[0].pool)


def test_a_moment_whose_beginning_is_not_there_waits_for_the_next_whole_one() -> None:
    fleet, recorder, recalled = ONE_POOL, Recorder(), Recalled()
    started = StartMeant("x", 1, Placement("gpus", (0,), (8,)), StartCause.WORTH, 1.0)
    told = [
        recorder.with_what_was_seen([started], fleet, (), {"a": Tally(5)}, ["a"])[0]
        for _ in range(WHOLE_EVERY + 1)
    ]
    for fact in told[1:]:
        assert recalled.fleet is None
        assert isinstance(fact, Weighed)
        recalled.take(fact, ["a"])
    assert recalled.fleet is not None
    assert recalled.tallies == {"a": Tally(5)}
