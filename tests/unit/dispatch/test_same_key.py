"""A key that is submitted again: the same job, or another one, or one that is to go on. Never is it passed
over in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.cli.cli import main
from orchestrator.dispatch.facts import Began, Ended, Fact, NodeBound, StartMeant, Tally
from orchestrator.dispatch.queue import Queue
from orchestrator.dispatch.reconcile import StartDriver, next_action
from orchestrator.dispatch.seen import DriverEnd, Presence, RunSeen
from orchestrator.dispatch.store import Store
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobState, Placement

FLEET = """
pools:
  big: {nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}
  small: {nodes: 1, gpus_per_node: 2, resource: CPU, labels: {size: small}, words: [gpu=cpu]}
classes: {batch: {default: true}, product: {usd_per_hour: 100}}
"""
ONE = ["job=tiny_gpt", "cluster.gpus_per_node=1"]
HERE = Placement("big", (0,), (1,))


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return orc.queue(tmp_path / "runs")


def say(queue: Queue, *facts: Fact) -> None:
    with Store(queue.run_root / "fleet") as store:
        store.write("daemon", 1.0, lambda _books: facts)


def ran_and(state: JobState, tally: Tally) -> list[Fact]:
    start = StartMeant("a", 1, HERE, StartCause.WORTH, 1.0)
    return [NodeBound("big", 0, "id-0", "n0"), start, Began("a", 1), Ended("a", 1, state, tally, "it broke")]


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["submit", "key=a", *ONE, *words])
    told = capsys.readouterr()
    assert (told.err if code == 0 else told.out) == ""
    return code, (told.out if code == 0 else told.err)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("class=product", "with class=batch, and this says class=product; 'move a class=product' changes it"),
        ("usd_per_hour=7", "with usd_per_hour=1, and this says usd_per_hour=7; 'move a usd_per_hour=7'"),
        (
            "deadline='2031-01-01 10:00'",
            "with deadline=none, and this says deadline='2031-01-01 10:00'; 'move",
        ),
        ("pool=big", "with pool=big,small, and this says pool=big; 'move a pool=big' changes it"),
        (
            "preemptible=false",
            "with preemptible=true, and this says preemptible=false; say the same, or choose",
        ),
    ],
)
def test_what_differs_is_said_with_its_remedy(
    queue: Queue, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    queue.submit(*ONE, key="a")
    code, told = typed(capsys, word.replace("'", ""))
    assert code == 2
    assert f"key=a: is queued {said}" in told


def test_the_same_words_from_another_folder_are_another_job(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit(*ONE, key="a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(orc.ConfigError, match=f"was submitted in {tmp_path}, from where paths"):
        queue.submit(*ONE, key="a")


def test_the_same_words_are_the_same_job_whatever_they_mean_by_now(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit(*ONE, key="b")
    wishes = {"key": "a", "deadline": "3h", "job_class": "batch", "after": ["b"]}
    first = queue.submit(*ONE, **wishes)  # type: ignore[arg-type]
    later = Queue(queue.run_root, lambda: first.submitted_unix_s + 60.0)
    assert not later.submit(*ONE, **wishes).is_new  # type: ignore[arg-type]
    say(queue, *[Ended("b", 0, JobState.FAILED, Tally())])
    too_late = Queue(queue.run_root, lambda: first.submitted_unix_s + 4 * 3600.0)
    assert not too_late.submit(*ONE, **wishes).is_new  # type: ignore[arg-type]


def test_who_was_moved_meanwhile_is_the_same_job_by_his_first_words_and_by_his_new_ones(queue: Queue) -> None:
    queue.submit(*ONE, key="a")
    queue.move("a", job_class="product", pools=["big"])
    assert not queue.submit(*ONE, key="a").is_new
    assert not queue.submit(*ONE, key="a", job_class="product", pools=["big"]).is_new
    assert queue.job("a").job_class == "product"
    (queue.run_root / "fleet.yaml").write_text(FLEET.replace("product:", "other: {}, product:"))
    with pytest.raises(orc.ConfigError, match="with class=product, and this says class=other"):
        queue.submit(*ONE, key="a", job_class="other")


def test_what_has_finished_is_not_run_again(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.submit(*ONE, key="a")
    say(queue, *ran_and(JobState.FINISHED, Tally()))
    for words in ([], ["--again"]):
        code, told = typed(capsys, *words)
        assert (code, "a has finished already" in told) == (0, True)
    assert queue.jobs() == []


@pytest.mark.parametrize(
    ("state", "how"),
    [
        (JobState.CANCELLED, "was cancelled"),
        (JobState.FAILED, "has failed"),
        (JobState.OVER_BUDGET, "has stopped for its budget"),
    ],
)
def test_what_has_ended_otherwise_goes_on_where_somebody_says_so(
    queue: Queue, capsys: pytest.CaptureFixture[str], state: JobState, how: str
) -> None:
    queue.submit(*ONE, key="a")
    tally = Tally(step=9, saved_step=8, saved=True, gpu_s=3600.0, usd=2.0)
    say(queue, *ran_and(state, tally))
    (queue.run_root / "a").mkdir()
    (queue.run_root / "a" / "journal.jsonl").touch()
    code, told = typed(capsys)
    assert code == 2
    assert f"key=a: {how} " in told
    assert "(it broke); 'submit --again' with the same words goes on with its run" in told
    assert queue.jobs() == []
    code, told = typed(capsys, "--again", "class=product", "--json")
    assert (code, json.loads(told)["is_new"]) == (0, True)
    job = queue.job("a")
    assert (job.state, job.saved_step, job.spent_usd, job.job_class) == ("queued", 8, 2.0, "product")
    with Store(queue.run_root / "fleet") as store:
        before = store.rows()
        store.rebuild()
        assert store.rows() == before


def test_one_that_goes_on_is_started_and_the_end_before_it_says_nothing(queue: Queue) -> None:
    queue.submit(*ONE, key="a")
    tally = Tally(step=9, saved_step=8, saved=True, gpu_s=3600.0, usd=2.0)
    say(queue, *ran_and(JobState.FAILED, tally))
    queue.submit(*ONE, key="a", again=True)
    with Store(queue.run_root / "fleet") as store:
        entry = store.read().jobs["a"]
        spent = {month.usd for month in store.read().months.values()}
        start = StartMeant("a", entry.job.epoch + 1, HERE, StartCause.WORTH, 1.0)
        entry = store.write("daemon", 2.0, lambda _books: [start]).jobs["a"]
        ended = Presence(None, None, DriverEnd(1, 6), RunSeen(tally), False, False)
        assert next_action(entry, ended, True, 3.0) == StartDriver(2)
        store.write("daemon", 3.0, lambda _books: [Began("a", 2), Ended("a", 2, JobState.FINISHED, tally)])
        # What its run had come to before is counted once.
        assert {month.usd for month in store.read().months.values()} == spent == {2.0}


def test_who_comes_after_a_job_that_goes_on_again_waits_for_it(queue: Queue) -> None:
    queue.submit(*ONE, key="a")
    queue.submit(*ONE, key="z", after=["a"])
    say(queue, *ran_and(JobState.FAILED, Tally()))
    assert (why := queue.job("z").why) is not None
    assert why.cause == "depends_lost"
    queue.submit(*ONE, key="a", again=True)
    assert (why := queue.job("z").why) is not None
    assert why.cause == "depends"


def test_a_dry_run_refuses_what_a_submission_would(queue: Queue) -> None:
    queue.submit(*ONE, key="a")
    with pytest.raises(orc.ConfigError, match="'move a class=product' changes it"):
        queue.outlook(*ONE, key="a", job_class="product")


def test_of_a_sweep_those_go_on_that_have_not_finished(queue: Queue) -> None:
    sweep = (ONE, {"job.seed": [1, 2, 3]})
    queue.submit_sweep(*sweep, key="rates")
    say(queue, Ended("rates-1", 0, JobState.FINISHED, Tally()), Ended("rates-2", 0, JobState.FAILED, Tally()))
    with pytest.raises(orc.ConfigError, match="key=rates-2: has failed"):
        queue.submit_sweep(*sweep, key="rates")
    done = queue.submit_sweep(*sweep, key="rates", again=True)
    assert [(one.is_new, one.state) for one in done] == [
        (False, "finished"), (True, "queued"), (False, "queued"),
    ]  # fmt: skip
