"""What a rank says to its agent: a type for each message, which becomes a line of JSON and is read again.

A script has the descriptor that messages go by, and may write to it itself: a line that is no message of ours
is left out, whatever is in it, and is never the end of the agent. All of this is imported into the user's
process, so it needs nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from orchestrator.message_lines import Lines, UnknownKindError
from orchestrator.papers import Count, PaperError, Seconds, Within

# The longest is an error's, of which a script may make the text.
MOST_LINE_BYTES = 4 << 20
_MOST_VALUES = 100_000
_MOST_KIND = 80

# Of the two that a rank has.
SlotIndex = Annotated[int, Within(0, 1)]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The rank's process lives. ``progress`` moves at each forward pass of an engine, at each backward
    pass, batch and step, and as checkpoints begin and end; ``step`` is the last one that was done, None
    before the first."""

    phase: str
    phase_s: Seconds
    step: Count | None
    progress: Count


@dataclass(frozen=True, slots=True)
class PhaseBegun:
    """A phase has begun: import, initialize or exit."""

    phase: str


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """A phase is over: initialize or first_step."""

    phase: str
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class EngineMade:
    """DeepSpeed has made an engine, which runs with these values, whoever has set them. ``precision`` is
    bf16, fp16, fp32 or torch's name of another."""

    global_batch: Count
    micro_batch: Count
    accumulation: Count
    precision: str
    zero_stage: Count
    world_size: Count


@dataclass(frozen=True, slots=True)
class StepTaken:
    """A global step is done; what is not known of it is None.

    ``loss`` is the mean over the micro-batches, unscaled; ``lr`` the rate that the step was taken with.
    ``skipped`` says that the loss scale was too high, and the weights stay as they were. ``local_time_s`` is
    what the rank worked by itself.
    """

    step: Count
    step_time_s: Seconds
    local_time_s: Seconds | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """``peak_bytes`` is the most memory that the rank has held up to a step, None where it cannot tell, see
    :mod:`~orchestrator.rank.probes.peak_memory`."""

    step: Count
    peak_bytes: Count | None


@dataclass(frozen=True, slots=True)
class SaveBegun:
    """The script saves a checkpoint."""

    dir: str
    tag: str
    step: Count


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is where DeepSpeed has written it."""

    dir: str
    tag: str
    step: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Staged:
    """The rank's part of a checkpoint is in a slot of memory, to be written into the folder ``to``.

    ``slot`` is None where there was no room, for the reason ``given_up``. ``files`` went into that folder at
    once.
    """

    dir: str
    tag: str
    step: Count
    seconds: Seconds
    attempt: Count
    to: str
    slot: SlotIndex | None
    files: list[str]
    given_up: str
    save_latest: bool


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """The script's call has raised, or has saved nothing."""

    dir: str
    tag: str
    step: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class LoadBegun:
    """The script loads a checkpoint; ``tag`` is the one that it has asked for, if any."""

    dir: str
    tag: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint of this step is loaded."""

    dir: str
    tag: str
    step: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The script's call has raised, or has found nothing."""

    dir: str
    tag: str | None
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class ScriptFailed:
    """The script has raised an error. ``fault`` is one of :class:`~orchestrator.events.Fault` where the error
    is known to be of that kind."""

    type: str
    message: str
    traceback_tail: str
    fault: str | None = None
    step: Count | None = None


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A probe has failed: the rank tells no more of its steps."""

    where: str
    message: str


@dataclass(frozen=True, slots=True)
class Tracked:
    """The script has told MLflow this: by metric its points in their order, each of them step, Unix
    milliseconds and value. ``dropped`` points had no room on the way since the last such message."""

    metrics: dict[str, list[list[float]]]
    params: dict[str, str]
    tags: dict[str, str]
    dropped: Count = 0


@dataclass(frozen=True, slots=True)
class TrackedElsewhere:
    """The script has set a tracking address of its own, by which MLflow now goes; it is without its
    password."""

    uri: str


@dataclass(frozen=True, slots=True)
class StacksUnavailable:
    """The rank will not be able to tell where it is."""

    message: str


@dataclass(frozen=True, slots=True)
class OptimizerFollowed:
    """There is no DeepSpeed engine: the steps from here on are those of an optimizer of this class."""

    optimizer: str


@dataclass(frozen=True, slots=True)
class FileSaved:
    """The script has saved something by itself, into a file or folder, after the step that was done last (0
    before the first). The rank stood still for so long."""

    path: str
    step: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class TokensCounted:
    """A trainer's steps up to this one have had so many tokens on average, of all ranks."""

    step: Count
    tokens_per_step: Count


@dataclass(frozen=True, slots=True)
class OpBuildBegun:
    """An operation of C++ or CUDA is loaded, and compiled before where it is not there yet."""

    op: str


@dataclass(frozen=True, slots=True)
class OpBuildEnded:
    """It is loaded, or could not be."""

    op: str
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Unknown:
    """This version does not know a message of such a kind."""

    kind: str


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """This is how a rank sees one process group: ``entered`` counts its collectives, ``operation`` names the
    latest one that is not done, "" where all are, and ``peer`` tells of one that is between two ranks
    alone."""

    entered: int
    operation: str
    peer: bool = False


# What a line can say, by the word that it has for it.
KINDS: dict[str, type[Any]] = {
    "heartbeat": Heartbeat,
    "phase begun": PhaseBegun,
    "phase ended": PhaseEnded,
    "engine": EngineMade,
    "step": StepTaken,
    "memory": MemoryPeak,
    "save begun": SaveBegun,
    "saved": Saved,
    "staged": Staged,
    "save failed": SaveFailed,
    "load begun": LoadBegun,
    "loaded": Loaded,
    "load failed": LoadFailed,
    "error": ScriptFailed,
    "probe failed": ProbeFailed,
    "stacks unavailable": StacksUnavailable,
    "tracked": Tracked,
    "tracked elsewhere": TrackedElsewhere,
    "optimizer": OptimizerFollowed,
    "file saved": FileSaved,
    "tokens": TokensCounted,
    "op build begun": OpBuildBegun,
    "op build ended": OpBuildEnded,
}
Message = (
    Heartbeat
    | PhaseBegun
    | PhaseEnded
    | EngineMade
    | StepTaken
    | MemoryPeak
    | SaveBegun
    | Saved
    | Staged
    | SaveFailed
    | LoadBegun
    | Loaded
    | LoadFailed
    | ScriptFailed
    | ProbeFailed
    | StacksUnavailable
    | Tracked
    | TrackedElsewhere
    | OptimizerFollowed
    | FileSaved
    | TokensCounted
    | OpBuildBegun
    | OpBuildEnded
)
_LINES: Lines[Message] = Lines(KINDS, MOST_LINE_BYTES, _MOST_VALUES)
encode = _LINES.encode


def decode(line: bytes) -> Message | Unknown | None:
    """Returns what a line says; None where it is no message, or has a field that is not what it has to be."""
    try:
        return _LINES.decode(line)
    except UnknownKindError as unknown:
        return Unknown(unknown.kind[:_MOST_KIND])
    except PaperError:
        return None
