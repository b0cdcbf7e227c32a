"""Records → the lines that tell a run's story. Pure: no console, no colour, no clock.

Each line has a kind, from which a terminal chooses its colour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    Event,
    MetricLogged,
    Outcome,
    PhaseEntered,
    RankLost,
    RankOutput,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
    StopRequested,
    exit_in_words,
)
from orchestrator.ledger.meter import Bill, Bucket
from orchestrator.ledger.wording import count, duration, hours, hours_name, number, plural, usd

LOG_TAIL_LINES = 20
# A step line has these already; a job that prints them too need not be repeated.
SAID_BY_STEPS = {"loss", "lr", "grad_norm", "tokens_per_s", "step_time_s"}
PHASES = {
    "start": "ranks started",
    "import": "script running",
    "initialize": "DeepSpeed initialises",
    "first_step": "first step",
}
NO_STEPS = (Bucket.WAITING, Bucket.STARTING, Bucket.RECOVERING)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Kind(StrEnum):
    """What a line is about."""

    NOTE = "note"
    STEP = "step"
    OUTPUT = "output"
    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"
    DETAIL = "detail"


@dataclass(frozen=True)
class Line:
    kind: Kind
    text: str


class Story:
    """Turns records into lines; remembers only what keeps it from saying things twice."""

    def __init__(self, total_steps: int | None) -> None:
        self.total_steps = total_steps
        self.unit = "GPU"
        self.run = ""
        self._decided = ""
        self.metrics: dict[str, float] = {}
        self._lost: dict[tuple[int, str], int] = {}
        self._failed_attempts: set[int] = set()

    def lines(self, record: Record, bill: Bill) -> list[Line]:
        """What to say about this record, often nothing."""
        event = record.event
        match event:
            case RunStarted():
                self.unit, self.run = event.unit, event.run
                self.total_steps = self.total_steps if event.steps is None else event.steps
                price = f"{usd(event.price_usd_per_gpu_hour)} per {hours_name(event.unit)[:-1]}"
                what = f"job {event.job} on cluster {event.cluster}"
                return [Line(Kind.NOTE, f"run {event.run}: {what}, {plural(event.gpus, event.unit)} at {price}")]
            case RankOutput():
                return [Line(Kind.OUTPUT, f"[rank {event.rank}] {clean(event.text)}")]
            case MetricLogged():
                self.metrics |= event.metrics
                news = {name: value for name, value in event.metrics.items() if name not in SAID_BY_STEPS}
                if not news:
                    return []
                shown = "  ".join(f"{clean(name)} {number(value)}" for name, value in news.items())
                at = "" if event.step is None else f"step {event.step}: "
                return [Line(Kind.NOTE, at + shown)]
            case RankLost():
                return self._lost_rank(event)
            case ResourcesGranted():
                granted = f"{plural(event.gpus, self.unit)} on {plural(len(event.nodes), 'node')} granted"
                return [Line(Kind.NOTE, granted), *(Line(Kind.WARNING, clean(text)) for text in event.warnings)]
            case _:
                line = self._plain(event)
                return [line] if line else []

    def step_line(self, step: StepDone, bill: Bill) -> Line:
        """A step with the figures of the run so far."""
        of = f"/{self.total_steps}" if self.total_steps else ""
        figures = [f"step {step.step}{of}", f"loss {number(step.loss)}"]
        figures += [f"{count(bill.tokens_per_s)} tokens/s"] if bill.tokens is not None else []
        figures += [f"{number(step.step_time_s, 3)} s/step", f"ETA {duration(self.eta_s(bill))}"]
        figures += [f"{hours(bill.gpu_hours)} {hours_name(self.unit)}", usd(bill.cost_usd)]
        return Line(Kind.STEP, "  ".join(figures))

    def eta_s(self, bill: Bill) -> float | None:
        """Seconds to go at the pace of all steps so far, checkpoints and redone ones included."""
        stepping_s = sum(s for bucket, s in bill.seconds.items() if bucket not in NO_STEPS)
        if not self.total_steps or not bill.steps or stepping_s <= 0:
            return None
        return max(0, self.total_steps - bill.step) * stepping_s / bill.steps

    def _plain(self, event: Event) -> Line | None:
        match event:
            case AttemptStarted():
                at = f"{event.master_addr}:{event.master_port}"
                return Line(Kind.NOTE, f"attempt {event.attempt}: {plural(event.ranks, 'rank')}, meeting at {at}")
            case PhaseEntered(phase="step"):
                return None  # the steps say so themselves
            case PhaseEntered():
                return Line(Kind.NOTE, f"attempt {event.attempt}: {PHASES.get(event.phase, event.phase)}")
            case CheckpointSaved():
                stall = f"training stood still for {number(event.stall_s, 3)} s"
                return Line(Kind.NOTE, f"checkpoint {event.tag} saved at step {event.step}, {stall}")
            case CheckpointLoaded():
                took = f"{number(event.seconds, 3)} s"
                return Line(Kind.NOTE, f"checkpoint {event.tag} loaded, going on from step {event.step} ({took})")
            case AttemptEnded(outcome=Outcome.FAILED):
                return Line(Kind.WARNING, f"attempt {event.attempt} failed at step {event.step}")
            case Decided():
                self._decided = event.reason
                return Line(Kind.WARNING, f"decision: {event.reason}")
            case StopRequested():
                grace = f"ranks have {number(event.grace_s, 3)} s to save"
                return Line(Kind.WARNING, f"stop asked for by {event.by}; {grace}")
            case ResourcesReleased():
                return Line(Kind.NOTE, "resources released")
            case RunEnded():
                kind = Kind.GOOD if event.status is Status.FINISHED else Kind.ERROR
                reason = f": {event.reason}" if event.reason and event.reason != self._decided else ""
                return Line(kind, f"run {event.status.value}{reason}")
        return None

    def _lost_rank(self, lost: RankLost) -> list[Line]:
        key = (lost.attempt, lost.error or lost.reason)
        seen, self._lost[key] = self._lost.get(key, 0), self._lost.get(key, 0) + 1
        if seen:
            return []
        where = f"rank {lost.rank} on node {lost.node}, {lost.gpu}"
        how = exit_in_words(lost.exit_status)
        headline = f"{where}: {how} at step {lost.step}"
        if lost.attempt in self._failed_attempts:
            return [Line(Kind.WARNING, f"also {headline}")]
        self._failed_attempts.add(lost.attempt)
        lines = [Line(Kind.ERROR, headline)]
        if lost.alike > 1:
            others = plural(lost.alike - 1, "other rank")
            lines.append(Line(Kind.DETAIL, f"{others} ended with the same error"))
        if lost.reason and lost.reason not in headline:
            lines.append(Line(Kind.DETAIL, clean(lost.reason)))
        if lost.error:
            lines.append(Line(Kind.ERROR, f"  {clean(lost.error)}"))
        if lost.log_path:
            lines.append(Line(Kind.DETAIL, f"log: {lost.log_path}"))
        tail = [line for text in lost.log_tail[-LOG_TAIL_LINES:] for line in clean(text).split("\n")]
        return lines + [Line(Kind.DETAIL, f"| {line}") for line in tail]


def clean(text: str) -> str:
    """Without escapes and control characters; of a line that overwrote itself, what was left standing."""
    lines = (part.rstrip("\r").rpartition("\r")[2] for part in text.rstrip("\n").split("\n"))
    return "\n".join(_CONTROL.sub("", _ESCAPE.sub("", line)) for line in lines)
