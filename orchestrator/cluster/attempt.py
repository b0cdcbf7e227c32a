"""One attempt as the driver sees it: parts from the nodes in, events out. Pure; the clock comes in."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from orchestrator.agent.gather import MOST_WAITING, Gather, mean_loss, shortened, slowest_phase
from orchestrator.agent.messages import (
    EngineTold,
    FiguresPrinted,
    Gathered,
    LinePrinted,
    NodeSample,
    OfRanks,
    OpBuilding,
    RankCountedTokens,
    RankExited,
    RankMute,
    RankPhases,
    RankRaised,
    RankSavedFile,
    RankSaveWhole,
    RanksLoaded,
    RanksPeaked,
    RanksSaved,
    RanksStepped,
    RankTracked,
    RankWithoutEngine,
)
from orchestrator.check.verdict import verdict
from orchestrator.cluster.engine_values import Value, configured
from orchestrator.cluster.stragglers import StragglerWatch
from orchestrator.events import (
    AttemptEnded,
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    Fault,
    MemoryPeaked,
    MetricLogged,
    NodeQuarantined,
    NodeSampled,
    Outcome,
    Phase,
    PhaseEntered,
    ProbesFailed,
    RankLost,
    RankOutput,
    ScriptTracked,
    StepDone,
    StragglerNamed,
)
from orchestrator.redact import redact
from orchestrator.script_events import (
    LossNotFinite,
    OpCompiled,
    OpCompiling,
    ScriptSaveCompleted,
    ScriptSaved,
    StepsWithoutEngine,
    TokensSeen,
)
from orchestrator.text import exit_in_words

PHASES = tuple(Phase)
# How long the other ranks' last words are waited for before the cause is named.
SETTLE_S = 0.5
HOLD_OUTPUT_S = 0.3
# An error often comes from all ranks alike: so long they may say it themselves before they are stopped.
OWN_WORDS_S = 0.25
# What a rank says when it only felt the death of another.
_SECONDARY = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|gloo|nccl|processgroup|timed? ?out|peer",
    re.IGNORECASE,
)
LOST_WITH_ITS_NODE = "lost with its node"
OWN_FAULT, FELT_ANOTHER, STOPPED_BY_US = range(3)
_NUMBERS = re.compile(r"\d+")


class Attempt:
    """Folds what the nodes say. ``failing`` turns true at the first bad exit; ``ended`` when all are gone."""

    def __init__(
        self,
        number: int,
        nodes: Sequence[str],
        ranks_per_node: int,
        gpu_name: Callable[[int], str] = "GPU {}".format,
        stragglers: StragglerWatch | None = None,
        planned: Mapping[str, Value] | None = None,
        assumed: Collection[str] = (),
    ) -> None:
        self.number = number
        self.nodes = list(nodes)
        self.ranks_per_node = ranks_per_node
        self._gpu_name = gpu_name
        self._planned = planned or {}  # of what DeepSpeed's engine runs with
        self._assumed = assumed  # names of those that nobody asked for
        self._stragglers = stragglers or StragglerWatch(factor=1.5, steps=20)
        self.stopping = False
        self.failing = False
        self.ended = False
        self.step = 0
        self._world_size = len(self.nodes) * ranks_per_node
        self._gather = Gather(self._world_size)
        self._exits: dict[int, RankExited] = {}
        self._phases: dict[int, list[str]] = {}
        self._in_phase: Counter[str] = Counter()  # ranks
        self._phase_index = -1
        self._first_bad_s: float | None = None
        self._blamed: RankLost | None = None
        self._named = False
        self._waiting: list[tuple[float, RankOutput]] = []
        self._saves: dict[int, int] = {}  # by step, the rank that speaks for what the script saved by itself
        self._whole_saves: dict[str, int] = {}  # the step that each is of
        self._optimizer = ""  # whose steps are told, where there is no engine
        self._ops: dict[str, bool] = {}  # operations that ranks compile; true once one of them has it
        self.broken: list[str] = []  # nodes on which a rank outlived SIGKILL

    def receive(self, node_index: int, part: OfRanks, now_s: float) -> list[Event]:
        """The events that follow from one node's part."""
        match part:
            case RanksStepped() | RanksSaved() | RanksLoaded() | RanksPeaked():
                whole = self._gather.add(part)
                return [] if whole is None else self._whole(whole)
            case EngineTold(engine):
                return [configured(self.number, engine, self._planned, self._assumed)]
            case RankPhases(phases):
                return self._phase(node_index, phases)
            case FiguresPrinted(step, metrics):
                return [MetricLogged(self.number, step or self.step or None, metrics)]
            case RankTracked(rank, metrics, params, tags):
                return [ScriptTracked(self.number, rank, metrics, redact(params), redact(tags))]
            case LinePrinted(text, fleeting):
                self._waiting.append((now_s, RankOutput(self.number, 0, text, fleeting)))
            case RankRaised():
                self._waiting = []  # its traceback, which comes with the exit
            case RankWithoutEngine(optimizer):
                return self._without_engine(optimizer)
            case RankCountedTokens(step, tokens_per_step):
                return [TokensSeen(self.number, step, tokens_per_step)]
            case RankSavedFile():
                return self._script_saved(part)
            case RankSaveWhole(path, step, save_bytes) if self._whole_saves.get(path, -1) < step:
                self._whole_saves[path] = step  # nodes that share a folder all see it
                return [ScriptSaveCompleted(self.number, step, path, save_bytes)]
            case OpBuilding(op, seconds):
                return self._op(op, seconds)
            case NodeSample(metrics):
                return [NodeSampled(self.nodes[node_index], metrics)]
            case RankMute(rank, where, reason):
                observed = self._gather.excuse()
                return [ProbesFailed(self.number, rank, self.nodes[node_index], where, reason, observed)]
            case RankExited():
                self._exit(part, now_s)
                return self._outlived(part)
        return []

    def _without_engine(self, optimizer: str) -> list[Event]:
        """All ranks say so."""
        if optimizer == self._optimizer:
            return []
        self._optimizer = optimizer
        return [StepsWithoutEngine(self.number, optimizer)]

    def _script_saved(self, part: RankSavedFile) -> list[Event]:
        """The first of the ranks that save at a step speaks for all: they stand still at the same time, be it
        some steps apart on the driver's clock."""
        if self._saves.setdefault(part.step, part.rank) != part.rank:
            return []
        if len(self._saves) > MOST_WAITING:
            del self._saves[min(self._saves)]
        return [ScriptSaved(self.number, part.rank, part.step, part.path, shortened(part.seconds, 5))]

    def _op(self, op: str, seconds: float | None) -> list[Event]:
        """All ranks want the same, and one compiles for those of its node."""
        if seconds is None and op not in self._ops:
            self._ops[op] = False
            return [OpCompiling(self.number, op)]
        if seconds is not None and self._ops.get(op) is False:
            self._ops[op] = True
            return [OpCompiled(self.number, op, shortened(seconds, 5))]
        return []

    def blame(self, cause: RankLost, now_s: float) -> None:
        """The cause is known, though its ranks may not have ended: they make no progress, say."""
        if not self.failing and not self.stopping:
            self._blamed, self.failing, self._first_bad_s = cause, True, now_s

    def fail(self) -> None:
        """The attempt is to end for a reason that is none of its ranks' and has been told already."""
        self.failing = self._named = True

    @property
    def left(self) -> int:
        """How many ranks have ended by themselves as they should."""
        return sum(part.status == 0 for part in self._exits.values())

    def must_stop(self, now_s: float) -> bool:
        """Whether what is left of the attempt is to be stopped now: at once after a killed rank."""
        if self._first_bad_s is None:
            return False
        killed = any(part.status < 0 for part in self._exits.values())
        return killed or now_s - self._first_bad_s >= OWN_WORDS_S

    def lose_node(self, node_index: int, reason: str, now_s: float, silent_s: float = 0.0) -> None:
        """All of a node's ranks are gone with its agent, of which nothing was heard for ``silent_s``
        before."""
        first = node_index * self.ranks_per_node
        for rank in range(first, first + self.ranks_per_node):
            if rank not in self._exits:
                lost = RankExited(rank, "the whole node", -signal.SIGKILL, self.step, time=0.0, error=reason)
                self._exit(replace(lost, fault=Fault.NODE, silent_s=silent_s), now_s)

    def settle(self, now_s: float) -> list[Event]:
        """Name the cause once the others' last words are in; end when no rank is left."""
        all_gone = len(self._exits) == self._world_size
        events: list[Event] = list(self._release_output(now_s, all_gone))
        if self.failing and not self._named and not self.stopping:
            assert self._first_bad_s is not None
            if all_gone or self._blamed or now_s - self._first_bad_s >= SETTLE_S:
                self._named = True
                events.append(self._cause(now_s))
        if all_gone and not self.ended:
            self.ended = True
            events.append(AttemptEnded(self.number, self._outcome(), self.step))
        return events

    def _release_output(self, now_s: float, all_gone: bool) -> list[RankOutput]:
        """Output is held for a moment: what a rank prints when another died is its log's business."""
        if self.failing:
            self._waiting = []
        due = [line for at_s, line in self._waiting if all_gone or now_s - at_s >= HOLD_OUTPUT_S]
        self._waiting = self._waiting[len(due) :]
        return due

    def _outcome(self) -> Outcome:
        if self.stopping:
            return Outcome.STOPPED
        return Outcome.FAILED if self.failing else Outcome.FINISHED

    def _whole(self, part: Gathered) -> list[Event]:
        match part:
            case RanksStepped():
                self.step = part.step
                done = StepDone(
                    self.number,
                    part.step,
                    shortened(part.step_time_s, 5),
                    shortened(mean_loss(part.losses), 7),
                    shortened(part.lr, 5),
                    shortened(part.grad_norm, 5),
                    part.skipped,
                )
                return [*self._not_finite(part), done, *self._straggler(part)]
            case RanksSaved(step, _, tag, path, seconds, staged):
                return [CheckpointSaved(self.number, step, tag, path, seconds, staged)]
            case RanksLoaded(step, _, tag, path, seconds):
                self.step = step
                return [CheckpointLoaded(self.number, step, tag, path, seconds)]
            case RanksPeaked(step, _, peak_bytes):
                return [] if peak_bytes is None else [MemoryPeaked(self.number, step, peak_bytes)]

    def _not_finite(self, part: RanksStepped) -> list[Event]:
        first, ranks = list(part.not_finite), part.not_finite_ranks
        return [LossNotFinite(self.number, part.step, first, ranks, part.ranks)] if ranks else []

    def _straggler(self, part: RanksStepped) -> list[Event]:
        named = self._stragglers.observe(part)
        if named is None:
            return []
        rank, ratio = named
        node, local = divmod(rank, self.ranks_per_node)
        gpu = self._gpu_name(local)
        return [StragglerNamed(self.number, rank, self.nodes[node], gpu, part.step, ratio)]

    def _phase(self, node_index: int, phases: list[str]) -> list[Event]:
        before = self._phases.get(node_index)
        if phases == before:
            return []
        self._phases[node_index] = phases
        self._in_phase.subtract(before or ())
        self._in_phase.update(phases)
        if len(self._phases) < len(self.nodes):
            return []
        slowest = slowest_phase((phase for phase, ranks in self._in_phase.items() if ranks), PHASES)
        index = PHASES.index(slowest) if slowest in PHASES else -1
        if index <= self._phase_index:
            return []
        self._phase_index = index
        return [PhaseEntered(self.number, PHASES[index])]

    def _node_of(self, rank: int) -> str:
        return self.nodes[rank // self.ranks_per_node]

    def _exit(self, part: RankExited, now_s: float) -> None:
        self._exits[part.rank] = part
        if part.status != 0 and not self.stopping:
            self.failing = True
            self._first_bad_s = now_s if self._first_bad_s is None else self._first_bad_s

    def _outlived(self, part: RankExited) -> list[Event]:
        """A rank is killed because something else went wrong: that has been named when it turns out not to
        die."""
        node = self._node_of(part.rank)
        if not part.node_unusable or not self._named or node in self.broken:
            return []
        self.broken.append(node)
        return [NodeQuarantined(node, f"rank {part.rank} ({part.gpu}) {part.error}")]

    def _cause(self, now_s: float) -> RankLost:
        if self._blamed is not None:
            return self._blamed
        bad = [part for part in self._exits.values() if part.status != 0]
        cause = min(bad, key=_guilt)
        left = min(
            (part for part in self._exits.values() if part.status == 0), key=lambda p: p.time, default=None
        )
        if left is not None and _guilt(cause)[0] == FELT_ANOTHER:
            cause = replace(left, error="it ended by itself while the other ranks went on")
        alike = max(1, sum(_same_words(p) == _same_words(cause) for p in bad))
        return RankLost(
            attempt=self.number,
            rank=cause.rank,
            node=self._node_of(cause.rank),
            gpu=cause.gpu,
            exit_status=cause.status,
            step=cause.step,
            reason=exit_in_words(cause.status) if cause.silent_s is None else LOST_WITH_ITS_NODE,
            error=cause.error,
            log_tail=cause.log_tail,
            log_path=cause.log_path,
            alike=alike,
            fault=cause.fault,
            node_unusable=cause.node_unusable,
            evidence=dict(cause.evidence),
            verdict=verdict(cause.fault, cause.status, cause.error, cause.evidence) if cause.time else None,
            detected_s=round((cause.silent_s or 0.0) + max(0.0, now_s - (self._first_bad_s or now_s)), 3),
        )


def _guilt(part: RankExited) -> tuple[int, float, int]:
    """Smallest is the cause: an own error or a killing, before an error that another's death explains,
    before our own SIGTERM; then the earliest."""
    error = part.error or ""
    if part.status == -signal.SIGTERM:
        order = STOPPED_BY_US
    elif part.status > 0 and (_SECONDARY.search(error) or not error):
        order = FELT_ANOTHER
    else:
        order = OWN_FAULT
    return order, part.time, part.rank


def _same_words(part: RankExited) -> tuple[int, str]:
    return part.status, _NUMBERS.sub("#", part.error or "")
