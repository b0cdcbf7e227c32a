"""A day of a queue as its facts: twenty-odd jobs of four teams on eight nodes, stops and all, written down as
the daemon would have."""

from __future__ import annotations

from pathlib import Path

from orchestrator.dispatch.facts import (
    Began,
    Ended,
    Fact,
    Left,
    NodeBound,
    NodeDrained,
    Reserved,
    StartMeant,
    StopMeant,
    Submitted,
    Tallied,
    Tally,
)
from orchestrator.dispatch.seen import SeenNode
from orchestrator.dispatch.seen_file import write_seen
from orchestrator.dispatch.store import Store
from orchestrator.fleet.decisions import StartCause, StopCause
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, PoolPlan
from orchestrator.fleet.pools import Reservation
from tests.support.opened_stores import until_the_end

FLEET = """
pools:
  h100: {nodes: 8, gpus_per_node: 8, usd_per_gpu_hour: 2.5}
teams:
  nlp: {quota: {h100: 24}, usd_per_month: 20000}
  vision: {quota: {h100: 16}}
  speech: {quota: {h100: 8}, borrow_limit: 16}
  serving: {quota: {h100: 16}}
classes:
  batch: {default: true}
  product: {usd_per_hour: 100}
"""
HOUR_S = 3600.0
STEP_S = 10.0


class FleetDay:
    """``at`` of what happens is hours before ``now``."""

    def __init__(self, run_root: Path, now: float) -> None:
        run_root.mkdir(parents=True, exist_ok=True)
        (run_root / "fleet.yaml").write_text(FLEET)
        self.run_root, self.now = run_root, now
        self.store = until_the_end(Store(run_root / "fleet"))
        self._epoch: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._gpus: dict[str, int] = {}

    def say(self, hours_ago: float, *facts: Fact) -> None:
        self.store.write("daemon", self.now - hours_ago * HOUR_S, lambda _books: facts)

    def nodes(self, missing: int) -> None:
        """Eight, of which the last ``missing`` are not there any more."""
        self.say(12.0, *(NodeBound("h100", number, f"id-{number}", f"node{number}") for number in range(8)))
        seen = [SeenNode(f"id-{number}", f"node{number}", 96.0, 8.0) for number in range(8 - missing)]
        write_seen(self.run_root / "fleet", tuple(seen), self.now)

    def submit(self, key: str, team: str, gpus: int, hours: float, hours_ago: float, **spec: object) -> None:
        plan = PoolPlan("h100", gpus, hours, 0.2, STEP_S, hours * gpus * 2.5)
        made = JobSpec(key, team, (plan,), script="train.py", overrides=(f"job={key}",), **spec)  # type: ignore[arg-type]
        self._gpus[key] = gpus
        self.say(hours_ago, Submitted(made, key, "/home/ada"))

    def start(self, key: str, nodes: tuple[int, ...], gpus: tuple[int, ...], hours_ago: float) -> None:
        epoch = self._epoch[key] = self._epoch.get(key, 0) + 1
        placement = Placement("h100", nodes, gpus)
        self._began[key] = hours_ago
        self.say(hours_ago, StartMeant(key, epoch, placement, StartCause.WORTH, 1.0), Began(key, epoch))

    def stop(self, key: str, for_job: str, hours_ago: float) -> None:
        epoch = self._epoch[key]
        self.say(hours_ago, StopMeant(key, epoch, StopCause.WORTH, 1.2, 40.0, (for_job,)))
        self.say(hours_ago, Left(key, epoch, self._tally(key, hours_ago)))

    def end(self, key: str, hours_ago: float, state: JobState = JobState.FINISHED, why: str = "") -> None:
        self.say(hours_ago, Ended(key, self._epoch[key], state, self._tally(key, hours_ago), why))

    def tell(self, key: str, steps: int) -> None:
        """What its run has come to by now."""
        tally = self._tally(key, 0.0)
        self.say(
            0.0, Tallied(key, Tally(tally.step, tally.step, True, steps, STEP_S, tally.gpu_s, tally.usd))
        )

    def _tally(self, key: str, hours_ago: float) -> Tally:
        ran_s = (self._began[key] - hours_ago) * HOUR_S
        step = int(ran_s / STEP_S)
        gpu_s = ran_s * self._gpus[key]
        return Tally(step, step, True, None, STEP_S, gpu_s, gpu_s / HOUR_S * 2.5)


def a_day(run_root: Path, now: float) -> FleetDay:
    """What a page is to be read by."""
    day = FleetDay(run_root, now)
    day.nodes(missing=1)
    day.submit("pretrain-7b", "nlp", 32, 14.0, 11.0)
    day.start("pretrain-7b", (0, 1, 2, 3), (8, 8, 8, 8), 10.9)
    day.submit("segment-a", "vision", 8, 3.0, 10.8)
    day.start("segment-a", (4,), (8,), 10.7)
    day.submit("segment-b", "vision", 8, 3.2, 10.8)
    day.start("segment-b", (5,), (8,), 10.7)
    for number, (hours_ago, took) in enumerate(((10.5, 1.1), (9.2, 0.9), (8.1, 1.4), (6.4, 1.0))):
        key = f"eval-{number}"
        day.submit(key, "serving", 2, took, hours_ago)
        day.start(key, (6,), (2,), hours_ago - 0.05)
        day.end(key, hours_ago - took)
    day.submit("asr-large", "speech", 4, 6.0, 9.5)
    day.start("asr-large", (6,), (4,), 9.4)
    day.end("segment-a", 7.6)
    day.end("segment-b", 7.1, JobState.FAILED, "rank 3: CUDA out of memory at step 1,204")
    day.submit("tts-voices", "speech", 8, 4.0, 7.5)
    day.start("tts-voices", (7,), (8,), 7.4)
    day.end("tts-voices", 3.1)
    day.submit("release-finetune", "serving", 16, 2.5, 5.2, job_class="product", usd_per_hour=100.0)
    day.stop("pretrain-7b", "release-finetune", 5.1)
    day.start("release-finetune", (0, 1), (8, 8), 5.08)
    day.submit("detect-large", "vision", 16, 5.0, 4.9)
    day.start("detect-large", (2, 3), (8, 8), 4.8)
    day.end("asr-large", 3.2)
    day.end("release-finetune", 2.4)
    day.submit("sft-chat", "nlp", 16, 6.0, 2.5, job_class="product", usd_per_hour=100.0)
    day.start("sft-chat", (0, 1), (8, 8), 2.3)
    day.submit("align-small", "speech", 4, 3.0, 2.2)
    day.start("align-small", (6,), (4,), 2.1)
    day.submit("dpo-sweep-1", "nlp", 2, 1.5, 1.2, group="dpo-sweep")
    day.start("dpo-sweep-1", (6,), (2,), 1.1)
    day.submit("dpo-sweep-2", "nlp", 2, 1.5, 1.2, group="dpo-sweep")
    day.start("dpo-sweep-2", (6,), (2,), 1.1)
    day.submit("depth-maps", "vision", 8, 4.0, 1.0)
    day.start("depth-maps", (4,), (8,), 0.9)
    for key, steps in (
        ("detect-large", 1900), ("sft-chat", 2200), ("align-small", 1200), ("dpo-sweep-1", 560),
        ("dpo-sweep-2", 600), ("depth-maps", 1500),
    ):  # fmt: skip
        day.tell(key, steps)
    day.say(0.6, NodeDrained("node5"))
    day.submit("captions", "vision", 8, 2.0, 0.7)
    day.submit("eval-weekly", "serving", 4, 1.0, 0.5, deadline_at=now + 9 * HOUR_S)
    day.submit("asr-next", "speech", 16, 5.0, 0.4, deadline_at=now + 6 * HOUR_S)
    day.submit("distil", "nlp", 8, 3.0, 0.3, depends_on=("sft-chat",))
    day.submit("reward-model", "nlp", 8, 2.0, 0.2)
    kept = Reservation("h100", 2, now + 5 * HOUR_S, now + 8 * HOUR_S, team="serving", why="demo on stage")
    day.say(0.1, Reserved("r1", kept))
    return day
