"""How a run is wired: what is on record before it is told, what is given back, and parts that fit a screen."""

from __future__ import annotations

import ast
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.driver import run as module
from orchestrator.driver import wiring
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.on_record import OnRecord
from orchestrator.driver.resume import Unfinished
from orchestrator.errors import ConfigError
from orchestrator.events import Record, RunEnded, Status
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.journal import Journal, replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.supervise.loop import ResumeState, StopRequest
from tests.support.folders import PROJECT
from tests.support.played_runs import GRANTED, RUN, started, steps
from tests.unit.config.test_conf import composed

MOST_LINES = 50
EVENTS = [RUN, GRANTED, started(1), *(event for _, event in steps(1, 1, 3, 0.0))]


@dataclass
class Sink:
    """In the place of the process that tells MLflow."""

    ends: int = 0

    def run_ended(self) -> None:
        self.ends += 1


@dataclass
class Listener:
    """Remembers what it was told, and what was on the disk at that time."""

    path: Path
    told: list[Record] = field(default_factory=list)
    on_disk: list[int] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    past: list[Folded] = field(default_factory=list)

    def observe(self, record: Record, bill: Bill) -> None:
        self.told.append(record)
        self.on_disk.append(len(list(replay(self.path))))
        self.bills.append(bill)

    def notice(self, text: str) -> None:
        raise AssertionError(text)

    def remember(self, past: Folded) -> None:
        self.past.append(past)


def wired(folder: Path, view: Listener, sink: Sink, takes_up: Unfinished | None = None) -> wiring.Wired:
    """As far as books and records go; the rest of it is not asked for."""
    config = composed(f"run_root={folder}")
    directory = RunDirectory(folder / "night-1", False)
    directory.path.mkdir(exist_ok=True)
    nothing = cast(Any, None)
    return wiring.Wired(
        config, nothing, "night-1", directory, nothing, StopRequest(), cast(Any, sink), cast(Any, view),
        takes_up, folder,
    )  # fmt: skip


@pytest.fixture
def shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring.Wired, "plan", None)  # a plan is for budgets that runs share


def write_run(folder: Path, events: list[Any]) -> tuple[Listener, Sink, wiring.Books, Any]:
    view, sink = Listener(folder / "night-1" / "journal.jsonl"), Sink()
    run = wired(folder, view, sink)
    with ExitStack() as stack:
        books = wiring.open_books(run, stack)
        on_record = OnRecord(run, books, (view, view))
        for event in events:
            on_record.put(event)
    books.fold.finish()
    return view, sink, books, on_record


@pytest.mark.usefixtures("shares_nothing")
def test_an_event_is_on_record_and_counted_before_every_observer_is_told(tmp_path: Path) -> None:
    view, sink, books, on_record = write_run(tmp_path, EVENTS)
    assert [record.event for record in view.told[::2]] == EVENTS
    assert view.told[::2] == view.told[1::2]
    assert all(count > record.seq for record, count in zip(view.told, view.on_disk, strict=True))
    again = Ledger()
    for record in replay(view.path):
        again.fold(record)
    assert on_record.last == view.told[-1]
    assert view.bills[-1] == again.bill(view.told[-1].elapsed_s) == books.ledger.bill(view.told[-1].elapsed_s)
    assert (sink.ends, on_record.settled) == (0, None)


def test_a_run_in_the_folder_that_ray_deletes_with_its_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    config = composed("job=tiny_gpt", "gpu=cpu", "run_name=lost", "ray_address=local")
    with pytest.raises(ConfigError, match=r"lost: is in the folder that Ray made for this job.*run_root="):
        module.run(config, cast(Any, SimpleNamespace(warn=pytest.fail)))
    assert not (copy / "runs").exists()


@pytest.mark.usefixtures("shares_nothing")
def test_mlflow_is_told_of_the_end_once_it_is_on_record(tmp_path: Path) -> None:
    _, sink, _, on_record = write_run(tmp_path, [*EVENTS, RunEnded(Status.FINISHED, "all steps done")])
    assert sink.ends == 1
    assert on_record.last is not None
    assert isinstance(on_record.last.event, RunEnded)


@pytest.mark.usefixtures("shares_nothing")
def test_a_run_that_is_taken_up_goes_on_in_the_same_books(tmp_path: Path) -> None:
    first, *_ = write_run(tmp_path, EVENTS)
    view = Listener(first.path)
    takes_up = Unfinished(tmp_path / "night-1", "night-1", JournalFold(tmp_path / "night-1"))
    run = wired(tmp_path, view, Sink(), takes_up)
    assert run.began_unix_s == first.told[0].time_unix_s
    with ExitStack() as stack:
        books = wiring.open_books(run, stack)
        (past,) = view.past
        assert books.fold is takes_up.fold
        assert (books.ledger, books.resume_state) == (past.ledger, past.resume_state)
        assert books.resume_state != ResumeState()
        OnRecord(run, books, (view,)).put(takes_up.resumed)
    assert [record.seq for record in replay(first.path)] == list(range(len(EVENTS) + 1))
    assert view.told[0].seq == len(EVENTS)


def test_what_was_taken_is_given_back_though_a_later_part_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[str] = []

    class Shared:
        def give_back(self) -> None:
            given_back.append("shared")

    monkeypatch.setattr(wiring, "shared_budgets", lambda *_: Shared())
    monkeypatch.setattr(wiring.Wired, "plan", None)
    monkeypatch.setattr(
        wiring, "assignment_of", lambda *_: (_ for _ in ()).throw(RuntimeError("no assignment"))
    )
    run = wired(tmp_path, Listener(tmp_path), Sink())

    def begins() -> None:
        with ExitStack() as stack:
            books = wiring.open_books(run, stack)
            assert isinstance(books.journal, Journal)
            wiring.assigned(run, stack)

    target = type("Target", (), {"warm_cluster": None})()
    object.__setattr__(run, "target", target)
    with pytest.raises(RuntimeError, match="no assignment"):
        begins()
    assert given_back == ["shared"]
    assert [path.name for path in run.directory.path.iterdir() if path.name != "journal.jsonl"] == []


@pytest.mark.parametrize("name", ["run", "wiring"])
def test_each_part_of_a_run_fits_a_screen(name: str) -> None:
    tree = ast.parse((PROJECT / "orchestrator" / "driver" / f"{name}.py").read_text())
    lines = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert lines, "there are functions"
    assert {part: count for part, count in lines.items() if count > MOST_LINES} == {}
