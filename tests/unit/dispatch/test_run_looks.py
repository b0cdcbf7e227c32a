"""What a run's journal tells the daemon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from orchestrator.dispatch.run_looks import RunLooks
from orchestrator.events import (
    AttemptStarted,
    Event,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.fleet.jobs import StopPrice
from orchestrator.ledger.journal import Journal
from tests.support.played_runs import BEGIN, steps

ENDED = RunEnded(Status.INTERRUPTED, "stopped by 'orchestrator stop' of ada")


def written(run_dir: Path, events: Iterable[Event]) -> None:
    run_dir.mkdir(exist_ok=True)
    with Journal(run_dir / "journal.jsonl") as journal:
        for event in events:
            journal.append(event)


def test_nodes_are_left_with_the_last_word_of_the_newest_driver(tmp_path: Path) -> None:
    looks, run = RunLooks(tmp_path), [event for _, event in (*BEGIN, *steps(1, 1, 3, at=1.0))]
    assert not looks.look("a").nodes_left
    stop = [StopRequested("'orchestrator stop' of ada", 60.0), ResourcesReleased()]
    written(tmp_path / "a", [*run, *stop])
    assert not looks.look("a").nodes_left
    written(tmp_path / "b", [*run, *stop, ENDED])
    seen = looks.look("b")
    assert (seen.nodes_left, seen.finished, seen.stopped_by) == (True, False, "'orchestrator stop' of ada")
    assert not looks.look("b", since=9e9).nodes_left, "that was said by a driver before"
    said = looks.bytes_now("b")
    assert not looks.look("b", since=0.0, after_bytes=said).nodes_left, "also where the clock was set back"
    assert looks.look("b", since=9e9, after_bytes=said - 1).nodes_left, "and where it was set forward"
    written(tmp_path / "c", [*run, *stop, ENDED, RunResumed("c", "it had been stopped")])
    assert not looks.look("c").nodes_left


def test_what_was_read_of_a_run_that_has_ended_is_forgotten(tmp_path: Path) -> None:
    looks, run = RunLooks(tmp_path), [event for _, event in BEGIN]
    for name in "abc":
        written(tmp_path / name, run)
        looks.look(name)
    looks.keep({"b", "never seen"})
    assert set(looks._folds) == {"b"}


def test_what_has_been_measured_of_a_stop_is_its_price_and_the_rest_is_as_for_any_job(tmp_path: Path) -> None:
    looks, run = RunLooks(tmp_path), [event for _, event in BEGIN]
    written(tmp_path / "a", run)
    assert looks.look("a").tally.price is None
    written(tmp_path / "b", [*run, *(event for _, event in steps(1, 1, 3, at=1.0))])
    price = looks.look("b").tally.price
    assert price is not None
    assert (price.stop_s, price.write_s, price.load_s) == (StopPrice().stop_s, StopPrice().write_s, 0.0)
    assert 0.0 <= price.start_s < StopPrice().start_s


def test_a_step_takes_what_it_takes_in_the_newest_attempt_which_may_be_in_another_pool(
    tmp_path: Path,
) -> None:
    run = [event for _, event in (*BEGIN, *steps(1, 1, 9, at=1.0))]
    slower = [event for event in run if isinstance(event, AttemptStarted | StepDone)]
    slower = [
        replace(event, attempt=2, step_time_s=7.0)
        if isinstance(event, StepDone)
        else replace(event, attempt=2)
        for event in slower
    ]
    written(tmp_path / "a", [*run, *slower])
    assert RunLooks(tmp_path).look("a").tally.step_s == 7.0
