"""What somebody else writes between a verb's look and its own write: it is seen, whatever the verb."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.cli.cli import main
from orchestrator.dispatch.books import Books
from orchestrator.dispatch.facts import (
    Began,
    CancelAsked,
    Changed,
    Ended,
    Fact,
    NodeBound,
    Reserved,
    StartMeant,
    Tally,
)
from orchestrator.dispatch.queue import Queue
from orchestrator.dispatch.queue_view import QueueView
from orchestrator.dispatch.store import Choose, Store
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobState, Placement
from orchestrator.fleet.pools import Reservation

FLEET = """
pools:
  h100: {nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}
  a100: {nodes: 2, gpus_per_node: 2, resource: CPU, labels: {gpu: a100}, words: [gpu=cpu]}
classes: {batch: {default: true}, product: {usd_per_hour: 100}}
teams: {nlp: {}, cv: {}}
"""
ONE = ["job=tiny_gpt", "cluster.gpus_per_node=1"]
STARTS_ON_H100 = [
    NodeBound("h100", 0, "id-0", "node0"),
    StartMeant("y", 1, Placement("h100", (0,), (1,)), StartCause.WORTH, 1.0),
    Began("y", 1),
]

Meanwhile = Callable[..., None]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    found = orc.queue(tmp_path / "runs")
    found.submit(*ONE, team="nlp", key="y")
    return found


@pytest.fixture
def meanwhile(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Has somebody else write once, just before the next write begins: after all that is looked at before."""
    write = Store.write

    def arrange(*facts: Fact) -> None:
        left: list[Sequence[Fact]] = [facts]

        def late(store: Store, by: str, at: float, choose: Choose, epoch: int | None = None) -> Books:
            if left:
                others = left.pop()
                with Store(store.path.parent) as other:
                    write(other, "daemon", at, lambda _books: others)
            return write(store, by, at, choose, epoch)

        monkeypatch.setattr(Store, "write", late)

    return arrange


def test_who_starts_while_he_is_moved_keeps_the_pool_that_he_is_in(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlooks = QueueView.outlooks

    def slow(view: QueueView, specs: Sequence[object]) -> object:
        found = outlooks(view, specs)  # type: ignore[arg-type]
        with Store(queue.run_root / "fleet") as store:
            store.write("daemon", 1.0, lambda _books: STARTS_ON_H100)
        return found

    monkeypatch.setattr(QueueView, "outlooks", slow)
    with pytest.raises(orc.ConfigError, match="y is on h100 now; hold it first"):
        queue.move("y", pools=["a100"])
    assert queue.job("y").pool == "h100"
    with Store(queue.run_root / "fleet") as store:
        (entry,) = store.read().live()
    assert {plan.pool for plan in entry.job.spec.plans} == {"h100", "a100"}


def test_what_two_move_at_once_is_merged(queue: Queue, meanwhile: Meanwhile) -> None:
    with Store(queue.run_root / "fleet") as store:
        entry = store.entry("y")
        assert entry is not None
        other = Changed(replace(entry.job.spec, job_class="product", usd_per_hour=100.0))
    meanwhile(other)
    queue.move("y", deadline="2d")
    job = queue.job("y")
    assert (job.job_class, job.usd_per_hour) == ("product", 100.0)
    assert job.deadline_unix_s is not None


@pytest.mark.parametrize("verb", ["cancel", "hold", "move"])
def test_who_ends_in_that_moment_is_told_to_have_ended(
    queue: Queue, meanwhile: Meanwhile, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = Ended("y", 1, JobState.FINISHED, Tally())
    meanwhile(*STARTS_ON_H100, ends)
    assert main([verb, "y", *(["class=product"] if verb == "move" else [])]) == 2
    said = capsys.readouterr().err
    assert "y: has ended already (finished)" in said
    assert "Traceback" not in said


def test_a_group_is_asked_as_it_is_then(queue: Queue, meanwhile: Meanwhile) -> None:
    queue.submit_sweep(["job=tiny_gpt"], {"cluster.gpus_per_node": [1, 2]}, team="nlp", key="rates")
    meanwhile(CancelAsked("rates-1"))
    assert [(one.key, one.state) for one in queue.hold("rates")] == [("rates-2", "held")]
    assert [one.key for one in queue.move("rates", job_class="product")] == ["rates-2"]


def test_nodes_are_kept_for_one_of_two_who_ask_at_once(queue: Queue, meanwhile: Meanwhile) -> None:
    now = time.time()
    kept = Reservation("h100", 1, now, now + 7200.0, "nlp")
    meanwhile(Reserved("r1", kept))
    with pytest.raises(orc.ConfigError, match=r"overlaps with r1 \(1 node until"):
        queue.reserve(1, "1h", team="cv", pool="h100")
    meanwhile(Reserved("r2", kept))
    assert queue.reserve(1, "1h", team="cv", pool="a100").name == "r3"


def test_who_is_to_wait_for_a_job_that_fails_in_that_moment_is_refused(
    queue: Queue, meanwhile: Meanwhile
) -> None:
    meanwhile(CancelAsked("y"))
    with pytest.raises(orc.ConfigError, match="y has ended and not finished"):
        queue.submit(*ONE, team="nlp", key="z", after=["y"])
    assert queue.jobs() == []
