"""Decisions of a queue, made again from its own facts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.cli import main
from orchestrator.dispatch.facts import FleetSeen, NodesSeen
from orchestrator.dispatch.replay import replay_of, replayed
from orchestrator.errors import RunDirectoryError
from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Decision, Start
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


def test_a_day_comes_out_the_same_and_what_has_not_changed_is_on_record_once(tmp_path: Path) -> None:
    cluster = played(tmp_path)
    again = replay_of(cluster.looks.facts())
    assert again.differing == []
    facts = [fact for _, _, fact in cluster.looks.facts()]
    seen = [fact for fact in facts if isinstance(fact, FleetSeen)]
    assert [fact.policy.aging for fact in seen] == [0.1, 0.5, 0.5], (
        "once, when it changes, and the next daemon's"
    )
    assert sum(isinstance(fact, NodesSeen) for fact in facts) == 2
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
