"""What the verbs of the queue answer: to people and as JSON, why somebody waits, and who comes after a
group."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import orchestrator as orc
from orchestrator.cli.cli import main
from orchestrator.dispatch.facts import Began, Ended, Fact, NodeBound, StartMeant, Tally
from orchestrator.dispatch.queue import Queue
from orchestrator.dispatch.store import Store
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobState, Placement

FLEET = """
pools:
  cpus: {nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}
teams: {nlp: {}}
classes: {batch: {default: true}, product: {usd_per_hour: 100}, urgent: {usd_per_hour: 1e6}}
policy: {stop_unsaved: true}
"""
BOTH = ["job=tiny_gpt", "cluster.gpus_per_node=2"]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return orc.queue(tmp_path / "runs")


def say(queue: Queue, *facts: Fact, at: float = 1.0) -> None:
    with Store(queue.run_root / "fleet") as store:
        store.write("daemon", at, lambda _books: facts)


def runs(queue: Queue, key: str) -> None:
    """It has the whole pool, and has had it for long."""
    start = StartMeant(key, 1, Placement("cpus", (0,), (2,)), StartCause.WORTH, 1.0)
    bound = NodeBound("cpus", 0, "id-0", "node0")
    say(queue, bound, start, Began(key, 1), at=time.time() - 3600.0)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_verb_answers_in_json_what_has_changed(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.submit(*BOTH, key="a")
    queue.submit(*BOTH, key="b")
    runs(queue, "a")
    (moved,) = answer(capsys, "move", "b", "class=product", "deadline=2d")
    assert (moved["key"], moved["job_class"], moved["usd_per_hour"]) == ("b", "product", 100.0)
    assert answer(capsys, "hold", "b") == [{"key": "b", "leaves_first": False, "state": "held"}]
    assert answer(capsys, "hold", "b", "--off") == [{"key": "b", "leaves_first": False, "state": "queued"}]
    assert answer(capsys, "drain", "node0") == {"host": "node0", "is_drained": True, "jobs": ["a"]}
    assert answer(capsys, "drain", "node0", "--off")["is_drained"] is False
    made = answer(capsys, "reserve", "job=a", "nodes=1", "until=1h")
    assert (made["name"], made["job"]) == ("r1", "a")
    assert answer(capsys, "reserve") == [made]
    assert answer(capsys, "reserve", "name=r1", "--off") == made
    assert answer(capsys, "cancel", "a") == [{"key": "a", "leaves_first": True, "state": "stopping"}]
    assert answer(capsys, "cancel", "b") == [{"key": "b", "leaves_first": False, "state": "cancelled"}]
    seen = answer(capsys, "queue")
    assert [job["key"] for job in seen["jobs"]] == ["a"]
    assert [job["key"] for job in seen["ended"]] == ["b"]
    assert (seen["pools"][0]["used"], seen["is_led"]) == (2, False)
    assert answer(capsys, "dispatch", "--stop") == {"run_root": str(queue.run_root), "pid": None}
    assert main(["dispatch", "--json"]) == 2


def test_who_waits_is_told_what_would_have_it_start(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.submit(*BOTH, key="a", job_class="product")
    queue.submit(*BOTH, key="b")
    runs(queue, "a")
    why = answer(capsys, "queue", "--why", "b")["why"]
    assert (why["cause"], why["behind"]) == ("ahead", ["a"])
    assert why["behind_usd_per_gpu_hour"][0] > 0
    least, named = why["starts_at_usd_per_hour"], why["starts_in_class"]
    assert named == ("product" if least <= 100.0 else "urgent")
    assert 1.0 < least < 1e6
    assert main(["queue", "--why", "b"]) == 0
    said = capsys.readouterr().out
    assert "To be beaten are, by a GPU-hour: a $" in said
    assert f"In class {named} it would start now ('move b class={named}')." in said
    assert f"'move b usd_per_hour={least:g}')." in said

    # What it says is so, and with less it is not.
    for usd_per_hour, starts in ((least, True), (least * 0.8, False)):
        (moved,) = queue.move("b", usd_per_hour=usd_per_hour)
        assert (moved.why is None) is starts


def test_who_cannot_start_at_any_price_is_told_so(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.submit(*BOTH, key="a", preemptible=False)
    queue.submit(*BOTH, key="b")
    runs(queue, "a")
    assert main(["queue", "--why", "b"]) == 0
    assert "No class and no price would start it now." in capsys.readouterr().out


def test_the_table_says_since_when(
    queue: Queue, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit(*BOTH, key="a")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["queue"]) == 0
    assert "since" in capsys.readouterr().out


def test_what_comes_after_a_group_comes_after_all_its_jobs(
    queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = (["job=tiny_gpt"], {"job.seed": [1, 2]})
    queue.submit_sweep(*sweep, key="rates")
    say(queue, Ended("rates-1", 0, JobState.FINISHED, Tally()))
    assert main(["submit", "key=z", "after=rates", *BOTH]) == 0
    assert queue.job("z").after == ["rates-1", "rates-2"]
    assert (why := queue.job("z").why) is not None
    assert why.behind == ["rates-2"]
    queue.submit_sweep(sweep[0], {"job.seed": [1, 2, 3]}, key="rates")  # the group grows
    assert not queue.submit(*BOTH, key="z", after=["rates"]).is_new
    with pytest.raises(orc.ConfigError, match="after=rates: a job cannot wait for itself"):
        queue.submit_sweep(*sweep, key="rates", after=["rates"], again=True)
    queue.cancel("rates-2")
    with pytest.raises(
        orc.ConfigError, match=r"after=rates: rates-2 has ended and not finished \(cancelled\)"
    ):
        queue.submit(*BOTH, key="y", after=["rates"])
    with pytest.raises(orc.ConfigError, match=r"after='rate': there is no such job .*did you mean 'rates'"):
        queue.submit(*BOTH, key="y", after=["rate"])
