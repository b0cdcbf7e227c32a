"""The queue on a real Ray: its daemon, its drivers and who forks them are killed again and again, one job is
stopped for another, and every job finishes once."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.facts import HeldBack, LetGo
from tests.support.paced import paced
from tests.support.struck_queue import StruckQueue

pytestmark = [pytest.mark.real, pytest.mark.timeout(900, method="signal")]

STEPS, KILLS, WITHIN_S = 24, 6, 300.0
# One rank each, so that two of the three run beside each other; alike, so that they have to train the same.
JOB = [
    "gpu=cpu", "cluster.gpus_per_node=1", f"job.steps={STEPS}", "job.micro_batch=1", "model.seq_len=64",
    "job.args.val_every=0", "job.args.sample_tokens=0", "job.args.checkpoint_every=4",
    "tracking.uri=http://127.0.0.1:9", "launch.dashboard=false",
]  # fmt: skip


def test_three_jobs_finish_once_each_and_alike_whatever_is_killed(
    kept: dict[str, str], tmp_path: Path
) -> None:
    queue, hurry = StruckQueue(tmp_path, kept, seed=18), tmp_path / "hurry"
    job = [*JOB, *paced(hurry, pace_s=1.0)]
    try:
        queue.submit("c", "class=product", *job)
        queue.say(HeldBack("c", "until the others have saved"))
        for key in ("a", "b"):
            queue.submit(key, *job)
        queue.begin()
        queue.wait_for(lambda: queue.saved("a") and queue.saved("b"), WITHIN_S)
        queue.say(LetGo("c"))
        queue.wait_for(lambda: bool(queue.losses("c")), WITHIN_S)
        hurry.touch()
        queue.strike(KILLS, WITHIN_S)
        queue.check([["a", "b", "c"]], STEPS)
        stops = {entry.key: entry.job.preemptions for entry in queue.store.newest_ended(3)}
        assert (sum(stops.values()) >= 1, stops["c"]) == (True, 0)
    finally:
        queue.close()
