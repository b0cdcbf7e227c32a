"""What an agent says to the driver: a type for each message.

They travel as plain values (:func:`encode`, :func:`decode`): Ray pickles these several times as fast as
objects, and the driver hears every node at every tick. All nodes of a run have the same source of this, which
is compared before it starts. What many ranks have said becomes one message in
:mod:`~orchestrator.agent.gather`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from orchestrator.agent.waits import Wait
from orchestrator.checkpoint.commits import PartDurable, PartGivenUp
from orchestrator.events import Fault
from orchestrator.rank.messages import EngineMade, GroupSeen


@dataclass(frozen=True, slots=True)
class RanksStepped:
    """So many ranks have done a step. ``slowest`` (seconds, rank) and ``local_time_sum_s`` (over the ranks)
    say how long ranks worked by themselves, None where one of them did not say so. The loss is no finite
    number on ``not_finite_ranks`` of them, of which ``not_finite`` names the first."""

    step: int
    ranks: int
    losses: tuple[float, ...]
    lr: float | None
    grad_norm: float | None
    skipped: bool
    step_time_s: float
    slowest: tuple[float, int] | None
    local_time_sum_s: float | None
    not_finite: tuple[int, ...] = ()
    not_finite_ranks: int = 0


@dataclass(frozen=True, slots=True)
class RanksSaved:
    """So many ranks have saved a checkpoint; ``staged`` says that it went into memory at first."""

    step: int
    ranks: int
    tag: str
    path: str
    seconds: float
    staged: bool


@dataclass(frozen=True, slots=True)
class RanksLoaded:
    """So many ranks have loaded a checkpoint."""

    step: int
    ranks: int
    tag: str
    path: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RanksPeaked:
    """``peak_bytes`` is the most memory that one of so many ranks has held, None where none could tell."""

    step: int
    ranks: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class RankPhases:
    """Each rank of a node that has not ended is in one of these phases."""

    phases: list[str]


@dataclass(frozen=True, slots=True)
class EngineTold:
    """Rank 0 has made the engine that trains."""

    engine: EngineMade


@dataclass(frozen=True, slots=True)
class RankMute:
    """A rank's probes have failed: it tells no more of its steps."""

    rank: int
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class RankRaised:
    """A rank's script has raised an error; the rest comes with its exit."""

    rank: int


@dataclass(frozen=True, slots=True)
class RankExited:
    """A rank has ended, or counts as ended. ``status`` is negative for the signal that ended it; ``time`` is
    when that was noticed (Unix seconds), 0 where nobody did; ``error`` is in one line.

    ``node_unusable`` says that it outlived SIGKILL. ``silent_s`` is None where it ended by itself; else it
    went with its agent, of which nothing was heard for so long before.
    """

    rank: int
    gpu: str
    status: int
    step: int
    time: float
    error: str | None = None
    fault: Fault = Fault.EXIT
    log_tail: list[str] = field(default_factory=list)
    log_path: str = ""
    node_unusable: bool = False
    silent_s: float | None = None
    evidence: dict[str, float] = field(default_factory=dict)  # new counts of faults, by what they are of


@dataclass(frozen=True, slots=True)
class LinePrinted:
    """Rank 0 has printed a line. One that is ``fleeting`` is the state of progress bars, which the next line
    replaces, a row for each; "" where they are gone."""

    text: str
    fleeting: bool = False


@dataclass(frozen=True, slots=True)
class FiguresPrinted:
    """Rank 0 has printed a line of figures, of a step where the line says so."""

    step: int | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class RankTracked:
    """A rank's script has told MLflow this, see :class:`~orchestrator.rank.messages.Tracked`."""

    rank: int
    metrics: dict[str, list[list[float]]]
    params: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class LogGrown:
    """``data`` was added to a log that the driver does not see by itself."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class NodeSample:
    """The node was measured."""

    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Remark:
    """A person should know this; it is one line."""

    text: str


@dataclass(frozen=True, slots=True)
class ScriptPreloaded:
    """The zygote of the node has imported these libraries of the script's own, in so many seconds (None where
    it was warm and had done so before), and has left others out: each with why."""

    imported: tuple[str, ...]
    seconds: float | None
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class Overdue:
    """A rank that has been silent for longer than it may be."""

    rank: int
    phase: str
    step: int | None
    silent_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class RanksOverdue:
    """These ranks of a node make no progress; ``all`` says that there are no others left on it."""

    all: bool
    ranks: list[Overdue]


@dataclass(frozen=True)
class RankSeen:
    """A rank was looked at. ``endable``: neither it nor a process that it has started waits for something
    that may come from elsewhere, or works. ``listens``: a thread beside the main one waits for what others
    may send it, as a server's does. Seconds as in :class:`~orchestrator.agent.stillness.Still`;
    ``entered`` and ``state`` as in :class:`~orchestrator.agent.hang_stacks.Seen`. The driver adds the name of
    the node."""

    rank: int
    node: str
    gpu: str
    wait: Wait
    endable: bool
    still_s: float
    same_place_s: float
    cpu_share: float
    where: str = ""
    entered: bool | None = None
    state: str = "sleeping"
    groups: Mapping[str, GroupSeen] = field(default_factory=dict)
    stack: Sequence[str] = ()
    path: str = ""
    listens: bool = False

    @property
    def waits_in(self) -> str:
        """The operation that it waits in with others, "" where it does not."""
        return next((group.operation for group in self.groups.values() if group.operation), "")


@dataclass(frozen=True, slots=True)
class RanksSeen:
    """The ranks of a node were looked at, as was asked."""

    ranks: list[RankSeen]


@dataclass(frozen=True, slots=True)
class WriterHeld:
    """The node's writer has no space to write to, and waits for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class WriterFreed:
    """There is space again, after so many seconds."""

    held_s: float


@dataclass(frozen=True, slots=True)
class RankUnstaged:
    """There was no room in memory for what a rank saved."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class RankWithoutEngine:
    """The steps of a rank are those of an optimizer of this class."""

    optimizer: str


@dataclass(frozen=True, slots=True)
class RankSavedFile:
    """A rank's script has saved something by itself, see :class:`~orchestrator.rank.messages.FileSaved`."""

    rank: int
    path: str
    step: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RankSaveWhole:
    """What a rank's script has saved by itself after that step is whole: all of it is there, and nobody
    writes to it."""

    path: str
    step: int
    save_bytes: int


@dataclass(frozen=True, slots=True)
class RankCountedTokens:
    """So many tokens a step has, of all ranks."""

    step: int
    tokens_per_step: int


@dataclass(frozen=True, slots=True)
class OpBuilding:
    """A rank compiles an operation, or waits for one that does; ``seconds`` is what it took, None while it
    lasts."""

    op: str
    seconds: float | None


OfScript = RankWithoutEngine | RankSavedFile | RankSaveWhole | RankCountedTokens | OpBuilding
FromWriter = PartDurable | PartGivenUp | WriterHeld | WriterFreed | RankUnstaged
Gathered = RanksStepped | RanksSaved | RanksLoaded | RanksPeaked
Printed = LinePrinted | FiguresPrinted
OfRanks = (
    Gathered
    | EngineTold
    | RankPhases
    | RankMute
    | RankRaised
    | RankExited
    | Printed
    | RankTracked
    | NodeSample
    | OfScript
)
Part = FromWriter | OfRanks | LogGrown | Remark | ScriptPreloaded | RanksOverdue | RanksSeen
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Part)}
_FIELDS = {kind: tuple(one.name for one in dataclasses.fields(kind)) for kind in _KINDS.values()}
Encoded = list[tuple[str, tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Unknown:
    """This version does not know a message of such a kind."""

    kind: str


def encode(parts: Iterable[Part]) -> Encoded:
    """Returns messages as kinds and values."""
    return [
        (type(part).__name__, tuple([getattr(part, name) for name in _FIELDS[type(part)]])) for part in parts
    ]


def decode(encoded: Encoded) -> list[Part | Unknown]:
    """Returns the messages that an agent has sent."""
    return [_KINDS[kind](*values) if kind in _KINDS else Unknown(kind) for kind, values in encoded]
