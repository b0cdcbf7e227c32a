"""``make soak-queue``: many jobs on a Ray of this machine, whose daemon, drivers and head are killed at
random."""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
from pathlib import Path

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.fleet.jobs import JobState
from tests.faults.runs import User
from tests.real.conftest import CPU
from tests.real.test_queue import JOB
from tests.support.processes import end
from tests.support.struck_queue import StruckQueue

_WITHIN_S = 4 * 3600.0
HEADS = 0.05  # of all kills


class HeadStruck(StruckQueue):
    """As its base, and now and then Ray's head is killed, and `up` starts another."""

    user: User

    def _kill(self) -> None:
        if self.dice.random() > HEADS:
            super()._kill()
            return
        record = Path(self.environment["XDG_STATE_HOME"], "orchestrator", "cluster.json")
        head = WarmCluster(**json.loads(record.read_text())).head()
        if head is not None:
            end(head)
            self.kills.append("head")
        # a run root without a queue: its daemon is ours to start
        done = self.user.command("up", *CPU, "launch.dashboard=false", "run_root=elsewhere")
        assert done.returncode == 0, done.stderr


def main() -> None:
    """Raises where a job is lost, finishes twice, or trains other than the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    asked = parser.parse_args()
    print(f"--seed {asked.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        User(Path(folder)).keeping(*CPU, "launch.dashboard=false") as user,
    ):
        queue = HeadStruck(Path(folder), user.environment, asked.seed)
        queue.user = user
        keys = [f"job-{number}" for number in range(asked.jobs)]
        try:
            for key in keys:
                queue.submit(key, *JOB)
            queue.begin()
            queue.strike(asked.kills, _WITHIN_S)
            assert queue.states() == dict.fromkeys(keys, JobState.FINISHED)
            assert {queue.times_finished(queue.runs / key) for key in keys} == {1}
            first = queue.losses(queue.runs / keys[0])
            assert all(queue.losses(queue.runs / key) == first for key in keys)
        finally:
            queue.close()
    print(f"{len(keys)} jobs finished once each and alike, after {len(queue.kills)} kills: nothing is lost")


if __name__ == "__main__":
    main()
