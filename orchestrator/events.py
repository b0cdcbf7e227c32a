"""The events: immutable facts that every part says and the journal keeps.

An event says what happened; the journal adds when, as a :class:`Record`. ``elapsed_s`` is the
run's own clock (monotonic seconds since the run began, so that a wall clock set back changes no
bucket); ``time_unix_s`` is for people and for MLflow.

Events with ``durable = False`` are for the terminal only and never reach the journal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from orchestrator.budget_events import BudgetKilled as BudgetKilled
from orchestrator.budget_events import BudgetProjected as BudgetProjected
from orchestrator.budget_events import BudgetReached as BudgetReached
from orchestrator.budget_events import BudgetSettled as BudgetSettled
from orchestrator.budget_events import BudgetWarned as BudgetWarned
from orchestrator.budget_events import SharedBudgetWarned as SharedBudgetWarned
from orchestrator.checkpoint_events import CheckpointLoaded as CheckpointLoaded
from orchestrator.checkpoint_events import CheckpointSaved as CheckpointSaved
from orchestrator.checkpoint_events import CheckpointWriteBlocked as CheckpointWriteBlocked
from orchestrator.checkpoint_events import CheckpointWriteResumed as CheckpointWriteResumed
from orchestrator.checkpoint_events import SnapshotCommitted as SnapshotCommitted
from orchestrator.checkpoint_events import SnapshotDoubted as SnapshotDoubted
from orchestrator.checkpoint_events import SnapshotPassedOver as SnapshotPassedOver
from orchestrator.checkpoint_events import SnapshotQuarantined as SnapshotQuarantined
from orchestrator.checkpoint_events import StagingUnavailable as StagingUnavailable
from orchestrator.event import Event as Event
from orchestrator.vocabulary import Action as Action
from orchestrator.vocabulary import Fault as Fault
from orchestrator.vocabulary import Outcome as Outcome
from orchestrator.vocabulary import Phase as Phase
from orchestrator.vocabulary import RestoreSource as RestoreSource
from orchestrator.vocabulary import Status as Status
from orchestrator.vocabulary import Verdict as Verdict


@dataclass(frozen=True)
class RunStarted(Event):
    """A user's run began; nothing is allocated yet. Carries all that the meter needs, so that the journal can
    be read without the config: what is None is not known (a script without a model). What is ``predicted`` is
    the plan's: memory of the fullest rank, and the cost of a whole run shared among its steps."""

    run: str
    job: str
    cluster: str
    gpu_type: str
    gpus: int
    price_usd_per_gpu_hour: float
    unit: str = "GPU"
    steps: int | None = None
    tokens_per_step: int | None = None
    model_flops_per_token: float | None = None
    peak_flops_per_gpu: float | None = None
    ray_address: str | None = None  # of a cluster that was there already
    predicted_step_time_s: float | None = None
    predicted_memory_bytes: int | None = None
    predicted_cost_usd_per_step: float | None = None
    currency: str = ""  # in which the cost is shown beside dollars, at the rate that was stated
    usd_per_currency_unit: float | None = None
    modelled_watts_per_gpu: float | None = None  # at work, with its share of node and building
    grid_gco2_per_kwh: float | None = None  # as it was stated


@dataclass(frozen=True)
class PricesAnnounced(Event):
    """From when on an accelerator-hour costs what: each of ``prices`` is Unix seconds and dollars, in their
    order, in place of all that was announced before and has not come yet. What lies in the past holds from
    now on. Told before it comes, so that the bill is exact whenever somebody looks."""

    prices: list[list[float]]
    source: str = ""


@dataclass(frozen=True)
class ResourcesGranted(Event):
    """From here on ``gpus`` are held and paid for. ``warnings``: what about the nodes may cost the run its
    work. ``domains``: in how many racks, blocks and so on the nodes are, by level, far to near; empty where
    nobody has said where nodes are."""

    nodes: list[str]
    gpus: int
    warnings: list[str] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResumed(Event):
    """Another driver took the run up: the one before ended without a last word, or somebody had stopped
    it. ``changed`` is what it goes on with other than before, as KEY=VALUE; steps and gpus are its own then,
    and None where nothing was changed."""

    run: str
    because: str
    changed: list[str] = field(default_factory=list)
    steps: int | None = None
    gpus: int | None = None


@dataclass(frozen=True)
class AttemptStarted(Event):
    """A generation of ranks was started; ``attempt`` counts from 1 and fences older ones.

    ``restore_step`` is the step that all ranks were told to load, from ``restore_from`` (memory, memory
    parked on the node, or disk); None where there is nothing to load yet. ``restore_alone``: that checkpoint
    has a folder of its own, in which the script has put more than DeepSpeed did. ``restore_path`` is the
    folder or file by which the script knows what it is to load, "" where it is told of none;
    ``restore_has_earlier``: it has saved that by itself, without DeepSpeed, and another whole one before it.
    """

    attempt: int
    master_addr: str
    master_port: int
    ranks: int
    restore_step: int | None = None
    restore_from: RestoreSource | str | None = None
    restore_alone: bool = False
    restore_path: str = ""
    restore_has_earlier: bool = False


@dataclass(frozen=True)
class PhaseEntered(Event):
    """The slowest rank of the attempt entered a phase (import, initialize, first_step, step, …)."""

    attempt: int
    phase: Phase | str


@dataclass(frozen=True)
class EngineConfigured(Event):
    """With which values DeepSpeed trains in this attempt, as rank 0's engine says: a script may have brought
    its own file. ``planned`` has the plan's value of each that differs, ``assumed`` the names of those among
    them that nobody had asked for."""

    attempt: int
    global_batch: int
    micro_batch: int
    accumulation: int
    precision: str
    zero_stage: int
    world_size: int
    planned: dict[str, int | str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StepDone(Event):
    """A global step that all ranks finished. ``loss`` is the mean over ranks, ``step_time_s`` the slowest's.
    One that is ``skipped`` trained nothing: the loss scale of fp16 was too high for it, and is lower for the
    next."""

    attempt: int
    step: int
    step_time_s: float
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    skipped: bool = False


@dataclass(frozen=True)
class MemoryPeaked(Event):
    """The most memory that a rank of the attempt has taken up to this step, of all its ranks: bytes of its
    GPU or, of a rank on a processor, of the node. Measured after steps 1, 2, 4, 8, … of an attempt."""

    attempt: int
    step: int
    peak_bytes: int


@dataclass(frozen=True)
class MetricLogged(Event):
    """A line of JSON that the job printed: any metric by name."""

    attempt: int
    step: int | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class ScriptTracked(Event):
    """What a rank's script has told MLflow: by metric its points in their order, each of them step, Unix
    milliseconds and value; parameters and tags by name. Runs below the script's own are in the names, as
    ``NAME/loss``."""

    attempt: int
    rank: int
    metrics: dict[str, list[list[float]]]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RankOutput(Event):
    """A line that a rank printed, for the terminal; the rank's log file is its lasting place. One that is
    ``fleeting`` is the state of progress bars, which the next one replaces."""

    durable: ClassVar[bool] = False
    attempt: int
    rank: int
    text: str
    fleeting: bool = False


@dataclass(frozen=True)
class NodeSampled(Event):
    """System metrics of one node, e.g. ``cpu_utilization_percentage`` or ``gpu_0_power_usage_watts``."""

    node: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class StragglerNamed(Event):
    """A rank that the others kept waiting for over a window of steps: its own work takes ``ratio`` times
    theirs."""

    attempt: int
    rank: int
    node: str
    gpu: str
    step: int
    ratio: float


@dataclass(frozen=True)
class StallNamed(Event):
    """No rank has made progress for ``silent_s``; nothing is ended for that alone. The rank that the others
    wait for, or one of all: ``doing`` and ``awaited`` complete the sentence "rank 3 …" ("" where nothing is
    known)."""

    attempt: int
    rank: int
    node: str
    gpu: str
    step: int
    phase: str
    silent_s: float
    doing: str
    where: str = ""
    awaited: str = ""
    stack: list[str] = field(default_factory=list)
    log_path: str = ""


@dataclass(frozen=True)
class LossRejected(Event):
    """A step's loss is not one to go on from: NaN, infinite, or far above those before it."""

    attempt: int
    step: int
    loss: float | None
    reason: str


@dataclass(frozen=True)
class BatchesSkipped(Event):
    """Global batches (counted from 0 over the whole run) that no later attempt trains on."""

    batches: list[int]
    reason: str


@dataclass(frozen=True)
class NodeQuarantined(Event):
    """The run takes no more GPUs of this node."""

    node: str
    reason: str


@dataclass(frozen=True)
class NodeChecked(Event):
    """A node on which a rank was lost was measured before the run takes it again, or, where it ``came``, one
    that came in place of a lost one, or came back, before ranks run there; ``found`` says what is bad, ""
    where it is ``well``. ``attempt`` is the one that failed."""

    attempt: int
    node: str
    well: bool
    found: str
    seconds: float
    came: bool = False


@dataclass(frozen=True)
class NodeDraining(Event):
    """Ray is told to empty a node of the run: the attempt saves and ends, and the next one runs without it.
    ``left_s`` is what was left then until the node may be gone; None where nobody set an end."""

    attempt: int
    node: str
    step: int
    left_s: float | None


@dataclass(frozen=True)
class RankLost(Event):
    """A rank ended that should not have. The first of its attempt is the cause; ``alike`` counts
    the ranks that died of the identical error. ``fault`` is one of :class:`Fault`; ``detected_s`` is
    how long after the fault struck it was noticed, where that is known. ``node_unusable``: the rank outlived
    SIGKILL, so its node cannot end its processes. ``evidence`` is what the node has counted in the attempt,
    of its NICs and of the rank's GPU, by what it is of; ``verdict`` is what follows, None where the node was
    not heard."""

    attempt: int
    rank: int
    node: str
    gpu: str
    exit_status: int
    step: int
    reason: str
    error: str | None = None
    log_tail: list[str] = field(default_factory=list)
    log_path: str = ""
    alike: int = 1
    fault: Fault = Fault.EXIT
    detected_s: float | None = None
    node_unusable: bool = False
    evidence: dict[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class ProbesFailed(Event):
    """What tells of a rank's steps has failed, and the rank trains on without it: ``where`` and ``reason``
    say how. So many ranks as ``observed`` still tell; where there are none, what follows in this attempt is
    not observed."""

    attempt: int
    rank: int
    node: str
    where: str
    reason: str
    observed: int


@dataclass(frozen=True)
class AttemptEnded(Event):
    """No rank of the attempt is alive any more."""

    attempt: int
    outcome: Outcome
    step: int


@dataclass(frozen=True)
class Decided(Event):
    """What the policy chose, and why; ``action`` is restart, replace, rewind or stop."""

    action: Action | str
    reason: str


@dataclass(frozen=True)
class StopRequested(Event):
    """Somebody asked the run to stop (Ctrl-C, SIGTERM), or its budget did, by its key."""

    by: str
    grace_s: float


@dataclass(frozen=True)
class ResourcesReleased(Event):
    """Nothing is held any more."""


@dataclass(frozen=True)
class RunEnded(Event):
    """The last event of every run."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Record:
    """An event with its place and time in the journal.

    ``seq`` counts from 0 without gaps. ``elapsed_s`` never decreases.
    """

    seq: int  # place in the journal, from 0 without gaps
    elapsed_s: float  # the run's own clock, which never goes back: since the run began
    time_unix_s: float  # wall clock, which somebody may set
    event: Event  # `type`, its name, and its fields beside it
