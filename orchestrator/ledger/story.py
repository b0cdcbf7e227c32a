"""Records → the lines that tell a run's story. Pure: no console, no colour, no clock.

Each line has a kind, from which a terminal chooses its colour.
"""

from __future__ import annotations

from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    BudgetKilled,
    BudgetReached,
    BudgetSettled,
    BudgetWarned,
    CheckpointLoaded,
    CheckpointSaved,
    CheckpointWriteResumed,
    Decided,
    EngineConfigured,
    Event,
    MetricLogged,
    Outcome,
    Phase,
    PhaseEntered,
    PricesAnnounced,
    RankLost,
    RankOutput,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RestoreSource,
    RunEnded,
    RunResumed,
    RunStarted,
    SharedBudgetWarned,
    SnapshotCommitted,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.ledger import price_words
from orchestrator.ledger.checkpoint_lines import CheckpointLines
from orchestrator.ledger.fault_words import lost_in_words
from orchestrator.ledger.meter import Bill, Bucket
from orchestrator.ledger.story_lines import Kind, Line
from orchestrator.ledger.story_warnings import other_engine, warning_of
from orchestrator.script_events import (
    OpCompiled,
    OpCompiling,
    ScriptSaveCompleted,
    ScriptSaved,
    StepsWithoutEngine,
)
from orchestrator.supervise import budget_words
from orchestrator.text import (
    clean,
    count,
    duration,
    hours,
    hours_name,
    known,
    number,
    plural,
    ranges,
    usd,
)
from orchestrator.topology.tree import in_words

LOG_TAIL_LINES = 20
# A step line has these already; a job that prints them too need not be repeated.
SAID_BY_STEPS = {"loss", "lr", "grad_norm", "tokens_per_s", "step_time_s"}
PHASES: dict[str, str] = {
    Phase.START: "ranks started",
    Phase.IMPORT: "script running",
    Phase.INITIALIZE: "DeepSpeed initialises",
    Phase.FIRST_STEP: "first step",
}
NO_STEPS = (Bucket.WAITING, Bucket.STARTING, Bucket.RECOVERING)


class Story:
    """Turns records into lines; remembers only what keeps it from saying things twice."""

    def __init__(self, total_steps: int | None) -> None:
        self.total_steps = total_steps
        self.unit = "GPU"
        self.run = ""
        self._decided = ""
        self._other_values: dict[str, int | str] = {}  # than were planned, as they were said last
        self.metrics: dict[str, float] = {}
        self._lost: dict[tuple[int, str], int] = {}
        self._failed_attempts: set[int] = set()
        self._budget_reached = False
        self._checkpoints = CheckpointLines()

    def lines(self, record: Record) -> list[Line]:
        """What to say about this record, often nothing."""
        event = record.event
        match event:
            case StepDone():  # first, as there are millions: where a line is due, it is `step_line`
                return []
            case RunStarted():
                self.unit, self.run = event.unit, event.run
                self.total_steps = self.total_steps if event.steps is None else event.steps
                price = f"{usd(event.price_usd_per_gpu_hour)} per {hours_name(event.unit)[:-1]}"
                what = f"job {event.job} on cluster {event.cluster}"
                return [
                    Line(Kind.NOTE, f"run {event.run}: {what}, {plural(event.gpus, event.unit)} at {price}")
                ]
            case PricesAnnounced():
                return [Line(Kind.NOTE, price_words.announced(event, self.unit))]
            case RankOutput():
                return [Line(Kind.OUTPUT, f"[rank {event.rank}] {clean(event.text)}")]
            case MetricLogged():
                self.metrics |= event.metrics
                news = {name: value for name, value in event.metrics.items() if name not in SAID_BY_STEPS}
                if not news:
                    return []
                shown = "  ".join(f"{clean(name)} {_figure(value)}" for name, value in news.items())
                at = "" if event.step is None else f"step {event.step}: "
                return [Line(Kind.NOTE, at + shown)]
            case RankLost():
                return self._lost_rank(event)
            case ResourcesGranted():
                where = f" in {in_words(event.domains)}" if event.domains else ""
                nodes = f"{plural(len(event.nodes), 'node')}{where}"
                granted = f"{plural(event.gpus, self.unit)} on {nodes} granted"
                return [
                    Line(Kind.NOTE, granted),
                    *(Line(Kind.WARNING, clean(text)) for text in event.warnings),
                ]
            case EngineConfigured(planned=planned):
                said, self._other_values = self._other_values, planned
                return other_engine(event) if planned != said else []
            case SnapshotCommitted():
                return _note(self._checkpoints.committed(event, record.elapsed_s))
            case CheckpointSaved():
                return _note(self._checkpoints.saved(event, record.elapsed_s))
            case ScriptSaved():
                self._checkpoints.by_script(event)
                return []
            case ScriptSaveCompleted():
                return _note(self._checkpoints.whole(event, record.elapsed_s))
            case AttemptEnded() | RunEnded():
                line = self._plain(event)
                return _note(self._checkpoints.at_the_end()) + ([line] if line else [])
            case _:
                line = self._plain(event) or warning_of(event)
                return [line] if line else []

    def step_line(self, step: StepDone, bill: Bill) -> Line:
        """A step with the figures of the run so far."""
        of = f"/{self.total_steps}" if self.total_steps else ""
        figures = [
            f"step {step.step}{of}",
            "skipped by the loss scale" if step.skipped else f"loss {number(step.loss)}",
        ]
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
                at = f"meeting at {event.master_addr}:{event.master_port}"
                text = f"attempt {event.attempt}: {plural(event.ranks, 'rank')}, {at}"
                return Line(Kind.NOTE, text + _restored(event))
            case PhaseEntered(phase=Phase.STEP):
                return None  # the steps say so themselves
            case PhaseEntered():
                return Line(Kind.NOTE, f"attempt {event.attempt}: {PHASES.get(event.phase, event.phase)}")
            case StepsWithoutEngine():
                whose = f"steps are those of its optimizer {clean(event.optimizer)}"
                return Line(Kind.NOTE, f"attempt {event.attempt}: no DeepSpeed engine, {whose}")
            case OpCompiling():
                text = f"{clean(event.op)} is compiled, which takes minutes the first time"
                return Line(Kind.NOTE, f"attempt {event.attempt}: {text}; ranks wait for it")
            case OpCompiled():
                took = number(event.seconds, 3)
                return Line(Kind.NOTE, f"attempt {event.attempt}: {clean(event.op)} is there after {took} s")
            case CheckpointLoaded():
                took = f"{number(event.seconds, 3)} s"
                return Line(
                    Kind.NOTE, f"checkpoint {event.tag} loaded, going on from step {event.step} ({took})"
                )
            case AttemptEnded(outcome=Outcome.FAILED):
                return Line(Kind.WARNING, f"attempt {event.attempt} failed at step {event.step}")
            case Decided():
                self._decided = event.reason
                return Line(Kind.WARNING, f"decision: {event.reason}")
            case BatchesSkipped():
                batches = f"batch{'' if len(event.batches) == 1 else 'es'} {ranges(event.batches)}"
                return Line(Kind.NOTE, f"{batches} left out from now on")  # the decision says why
            case CheckpointWriteResumed():
                return Line(
                    Kind.NOTE,
                    f"node {event.node} writes checkpoints again, after {number(event.held_s, 3)} s",
                )
            case RunResumed():
                self.run, self._budget_reached = event.run, False
                self.total_steps = event.steps if event.changed else self.total_steps
                changed = f" with {', '.join(map(clean, event.changed))}" if event.changed else ""
                return Line(Kind.WARNING, f"run {event.run} taken up again{changed}: {clean(event.because)}")
            case BudgetWarned():
                return Line(Kind.WARNING, budget_words.warned(event, self.unit))
            case SharedBudgetWarned():
                return Line(Kind.WARNING, clean(budget_words.shared_warned(event, self.unit)))
            case BudgetReached():
                self._budget_reached = True
                return Line(Kind.WARNING, budget_words.reached(event, self.unit))
            case BudgetKilled():
                return Line(Kind.ERROR, budget_words.killed(event, self.unit))
            case BudgetSettled():
                if self._budget_reached:  # then it is the reason why the run ended
                    return None
                return Line(Kind.NOTE, budget_words.settled(event, self.unit))
            case StopRequested():
                grace = f"ranks have {number(event.grace_s, 3)} s to save"
                return Line(Kind.WARNING, f"stop asked for by {event.by}; {grace}")
            case ResourcesReleased():
                return Line(Kind.NOTE, "resources released")
            case RunEnded():
                kind = _ENDS.get(event.status, Kind.ERROR)
                reason = f": {event.reason}" if event.reason and event.reason != self._decided else ""
                return Line(kind, f"run {event.status.value}{reason}")
        return None

    def _lost_rank(self, lost: RankLost) -> list[Line]:
        key = (lost.attempt, lost.error or lost.reason)
        seen, self._lost[key] = self._lost.get(key, 0), self._lost.get(key, 0) + 1
        if seen:
            return []
        headline = lost_in_words(lost)
        if lost.attempt in self._failed_attempts:
            return [Line(Kind.WARNING, f"also {headline}")]
        self._failed_attempts.add(lost.attempt)
        lines = [Line(Kind.ERROR, headline)]
        if lost.alike > 1:
            others = plural(lost.alike - 1, "other rank")
            lines.append(Line(Kind.DETAIL, f"{others} ended with the same error"))
        if lost.reason and lost.reason not in headline:
            lines.append(Line(Kind.DETAIL, clean(lost.reason)))
        if known(lost.detected_s):
            lines.append(Line(Kind.DETAIL, f"noticed {number(lost.detected_s, 3)} s after it happened"))
        if lost.error:
            lines.append(Line(Kind.ERROR, f"  {clean(lost.error)}"))
        if lost.log_path:
            lines.append(Line(Kind.DETAIL, f"log: {lost.log_path}"))
        tail = [line for text in lost.log_tail[-LOG_TAIL_LINES:] for line in clean(text).split("\n")]
        return lines + [Line(Kind.DETAIL, f"| {line}") for line in tail]


_ENDS = {Status.FINISHED: Kind.GOOD, Status.BUDGET_REACHED: Kind.WARNING}


def _note(text: str | None) -> list[Line]:
    return [] if text is None else [Line(Kind.NOTE, text)]


def _figure(value: float) -> str:
    """NaN is what a job has printed, and not unknown."""
    return number(value) if known(value) else "nan"


_WHERE: dict[str, str] = {
    RestoreSource.MEMORY: "in memory",
    RestoreSource.PARKED: "in memory parked on the node",
}


def _restored(started: AttemptStarted) -> str:
    if started.restore_step is None and started.restore_path:
        return f", from {clean(started.restore_path)}"
    if started.restore_step is None:
        return "" if started.attempt == 1 else ", without a checkpoint of ours"
    where = _WHERE.get(str(started.restore_from), "on disk")
    return f", from step {started.restore_step} {where}"
