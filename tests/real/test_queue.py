"""The queue on a real Ray: its daemon and its drivers are killed again and again, and every job finishes
once."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.fleet.jobs import JobState
from tests.support.struck_queue import StruckQueue

pytestmark = [pytest.mark.real, pytest.mark.timeout(600, method="signal")]

STEPS, KILLS = 24, 6
# One rank each, so that two of the three run beside each other; alike, so that they have to train the same.
JOB = [
    "gpu=cpu", "cluster.gpus_per_node=1", f"job.steps={STEPS}", "job.micro_batch=1", "model.seq_len=64",
    "job.args.val_every=0", "job.args.sample_tokens=0", "job.args.checkpoint_every=4",
    "tracking.uri=http://127.0.0.1:9", "launch.dashboard=false",
]  # fmt: skip


def test_three_jobs_finish_once_each_and_alike_whatever_is_killed(
    kept: dict[str, str], tmp_path: Path
) -> None:
    queue = StruckQueue(tmp_path, kept, seed=18)
    try:
        for key in ("a", "b", "c"):
            queue.submit(key, *JOB)
        queue.begin()
        queue.strike(KILLS, within_s=500.0)
        assert queue.states() == dict.fromkeys(("a", "b", "c"), JobState.FINISHED)
        a, b, c = (queue.runs / key for key in ("a", "b", "c"))
        assert [queue.times_finished(run) for run in (a, b, c)] == [1, 1, 1]
        losses = queue.losses(a)
        assert sorted(losses) == list(range(1, STEPS + 1))
        assert losses == queue.losses(b) == queue.losses(c)
        rows = queue.store.rows()
        queue.store.rebuild()
        assert queue.store.rows() == rows
    finally:
        queue.close()
