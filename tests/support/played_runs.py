"""Runs as the supervise loop tells them: short words for events, and a driver that plays any script of
mishaps."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    CheckpointSaved,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeDraining,
    Outcome,
    RankLost,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotQuarantined,
    Status,
    StepDone,
    StopRequested,
)

PRICE = 3.6
RUN = RunStarted("night-1", "gpt", "lab", "H100", 4, PRICE)
GRANTED = ResourcesGranted(["n0", "n1"], 4)
Timeline = list[tuple[float, Event]]


def started(attempt: int, restore_step: int | None = None, restore_from: str | None = None) -> AttemptStarted:
    return AttemptStarted(attempt, "10.0.0.1", 29500, 4, restore_step, restore_from)


def lost(attempt: int, step: int, rank: int = 2, **changes: object) -> RankLost:
    base = {"node": "n0", "gpu": "GPU 2", "exit_status": -9, "reason": "killed by SIGKILL"} | changes
    return RankLost(attempt=attempt, rank=rank, step=step, **base)  # type: ignore[arg-type]


def steps(attempt: int, first: int, last: int, at: float) -> Timeline:
    """A step a second, the first one at ``at``."""
    return [(at + number - first, StepDone(attempt, number, 1.0)) for number in range(first, last + 1)]


def records(timeline: Iterable[tuple[float, Event]]) -> list[Record]:
    return [Record(seq, at, 1.7e9 + at, event) for seq, (at, event) in enumerate(timeline)]


BEGIN: Timeline = [(0, RUN), (0, GRANTED), (0, started(1))]


KINDS = st.sampled_from(
    ["step"] * 6
    + ["save", "fault", "both", "loss", "node", "drain", "driver", "stop", "torn", "held", "freed", "silent"]
)
SECONDS = st.sampled_from([0.0, 0.5, 1.0]) | st.integers(0, 20_000_000).map(lambda us: us / 1e6)
SCRIPTS = st.lists(st.tuples(KINDS, SECONDS, SECONDS, st.integers(0, 3)), max_size=40)


STEP = ("step", 1.0, 1.0, 0)


class Driver:
    """Says what the supervise loop would, in its order, while a script of mishaps is played to it."""

    def __init__(self) -> None:
        self.now, self.attempt, self.step, self.saved = 0.0, 0, 0, [0]
        self.timeline: Timeline = []
        self.tell(0, RUN, GRANTED)
        self.start(1.0)

    def tell(self, gap_s: float, *events: Event) -> None:
        self.now += gap_s
        self.timeline += [(round(self.now, 6), event) for event in events]

    def start(self, gap_s: float) -> None:
        self.attempt += 1
        self.step = self.saved[-1]
        self.tell(gap_s, started(self.attempt, self.step or None, "disk" if self.step else None))

    def failed(self) -> AttemptEnded:
        return AttemptEnded(self.attempt, Outcome.FAILED, self.step)

    def play(self, kind: str, gap_s: float, more_s: float, number: int) -> None:
        match kind:
            case "step":
                self.step += 1
                self.tell(gap_s, StepDone(self.attempt, self.step, more_s))
            case "save":
                self.saved.append(self.step)
                self.tell(gap_s, CheckpointSaved(self.attempt, self.step, "t", "/c", more_s))
            case "fault" | "both":
                self.tell(gap_s, lost(self.attempt, self.step, detected_s=more_s))
                if kind == "both":
                    self.tell(more_s, lost(self.attempt, self.step, rank=0, error="another"))
                self.tell(more_s, self.failed(), Decided("restart", ""))
                self.start(more_s)
            case "silent":
                self.tell(gap_s, self.failed())
                self.start(more_s)
            case "loss":
                self.tell(gap_s, LossRejected(self.attempt, self.step, None, "NaN"))
                for _ in range(number):  # seen in the same poll, or before the ranks had stopped
                    self.step += 1
                    self.tell(more_s, StepDone(self.attempt, self.step, more_s))
                self.tell(more_s, self.failed(), BatchesSkipped([3], ""), Decided("rewind", ""))
                self.start(more_s)
            case "node":
                self.tell(
                    gap_s, lost(self.attempt, self.step, fault=Fault.NODE), self.failed(), ResourcesReleased()
                )
                self.tell(more_s, ResourcesGranted(["n2"], number))
                self.start(gap_s)
            case "drain":
                self.tell(gap_s, NodeDraining(self.attempt, "n0", self.step, more_s))
                for _ in range(number):  # until the ranks have heard of it
                    self.step += 1
                    self.tell(more_s, StepDone(self.attempt, self.step, more_s))
                self.saved.append(self.step)
                self.tell(more_s, CheckpointSaved(self.attempt, self.step, "t", "/c", more_s))
                self.tell(
                    gap_s, AttemptEnded(self.attempt, Outcome.STOPPED, self.step), Decided("replace", "")
                )
                self.start(more_s)
            case "driver":
                self.tell(gap_s, RunResumed("night-1", "lost"))
                self.tell(more_s, ResourcesGranted(["n0"], 4))
                self.start(more_s)
            case "stop":
                self.tell(gap_s, StopRequested("Ctrl-C", 30))
                self.step += 1
                self.tell(more_s, StepDone(self.attempt, self.step, more_s))
                self.tell(more_s, AttemptEnded(self.attempt, Outcome.STOPPED, self.step), ResourcesReleased())
                self.tell(0, RunEnded(Status.INTERRUPTED, "Ctrl-C"), RunResumed("night-1", "stopped"))
                self.tell(more_s, GRANTED)
                self.start(more_s)
            case "torn":
                self.saved = self.saved[:-1] or [0]
                self.tell(gap_s, SnapshotQuarantined(self.step - number, "t", "/c", "torn"))
            case "held":
                self.tell(gap_s, CheckpointWriteBlocked("n0", "full"))
            case "freed":
                self.tell(gap_s, CheckpointWriteResumed("n0", more_s))


def played(script: list[tuple[str, float, float, int]]) -> list[Record]:
    driver = Driver()
    for kind, gap_s, more_s, number in script:
        driver.play(kind, gap_s, more_s, number)
    return records(driver.timeline)
