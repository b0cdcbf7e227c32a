"""Two Rays under one queue's daemon: each gets the job that is for it, and the end of one is the other's no
matter."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.cluster.warm.head import stop_session
from orchestrator.events import AttemptStarted, MetricLogged, RunStarted
from orchestrator.fleet.jobs import ENDED, JobState
from tests.faults.runs import User
from tests.support.struck_queue import StruckQueue
from tests.support.typed_runs import CPU, OWN_SCRIPT

pytestmark = [pytest.mark.real, pytest.mark.timeout(900, method="signal")]

FLEET = """
pools:
  here:  {{nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}}
  there: {{nodes: 1, gpus_per_node: 2, resource: CPU, words: [gpu=cpu],
           ray_address: "%s", token_file: "%s"}}
"""
WITHIN_S = 300.0
_Event = TypeVar("_Event")
# It tells two steps, and all the others once somebody makes the file.
SCRIPT = """
import json, os, pathlib, time

for step in range(1, 31):
    while step > 2 and not pathlib.Path(os.environ["GO"]).exists():
        time.sleep(0.05)
    print(json.dumps({"step": step, "loss": 1.0 / step}), flush=True)
"""


def test_each_gets_its_job_and_one_that_dies_costs_the_other_nothing(
    kept: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    go = tmp_path / "go"
    job = [*OWN_SCRIPT, "cluster.gpus_per_node=1", "job.script=own.py", f"+env.GO={go}"]
    (tmp_path / "other").mkdir()
    with User(tmp_path / "other").keeping(*CPU, "launch.dashboard=false", "launch.zygote=false") as other:
        assert other.kept is not None
        token = Path(other.environment["HOME"], ".ray", "auth_token")
        queue = StruckQueue(tmp_path, kept, seed=0, fleet=FLEET % (other.kept.address, token))
        try:
            for key, pool in (("a", "here"), ("b", "there")):
                queue.submit(key, f"pool={pool}", *job)
            queue.begin()
            queue.wait_for(lambda: all(2 in steps_of(queue, key) for key in ("a", "b")), WITHIN_S)
            assert ray_of(queue, "b") == other.kept.address != ray_of(queue, "a")

            assert other.kept.head_pid is not None
            stop_session(other.kept.head_pid)
            queue.wait_for(lambda: state_of(queue, "b") is not JobState.RUNNING, WITHIN_S)
            assert state_of(queue, "a") is JobState.RUNNING
            go.touch()
            queue.wait_for(lambda: state_of(queue, "a") is JobState.FINISHED, WITHIN_S)
            assert steps_of(queue, "a") == list(range(1, 31))
            assert len(events_of(queue, "a", AttemptStarted)) == 1
            assert state_of(queue, "b") not in ENDED, "it queues once its driver has left its Ray"
        finally:
            queue.close()


def state_of(queue: StruckQueue, key: str) -> JobState:
    entry = queue.store.entry(key)
    assert entry is not None
    return entry.job.state


def events_of(queue: StruckQueue, key: str, kind: type[_Event]) -> list[_Event]:
    return [record.event for record in queue.records(key) if isinstance(record.event, kind)]


def steps_of(queue: StruckQueue, key: str) -> list[int | None]:
    """What its script has told, in order."""
    return [event.step for event in events_of(queue, key, MetricLogged)]


def ray_of(queue: StruckQueue, key: str) -> str | None:
    return events_of(queue, key, RunStarted)[0].ray_address
