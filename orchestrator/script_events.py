"""What is told of a script beside what its engine says: facts as those of :mod:`~orchestrator.events`, in the
same journal."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.events import Event


@dataclass(frozen=True)
class StepsWithoutEngine(Event):
    """The steps of the attempt are those of the script's optimizer, of this class: it makes no DeepSpeed
    engine. Their loss is what ``backward`` was called on."""

    attempt: int
    optimizer: str


@dataclass(frozen=True)
class ScriptSaved(Event):
    """The script has saved something by itself, without DeepSpeed: a file or folder that it names, after that
    step. Of several ranks that save at a step the first is told; it stood still for ``stall_s``. Nothing is
    promised of what is in it."""

    attempt: int
    rank: int
    step: int
    path: str
    stall_s: float


@dataclass(frozen=True)
class ScriptSaveCompleted(Event):
    """What the script has saved by itself after that step, a file or a folder, is whole: no rank nor child of
    one has it open for writing, and its own index finds all of it. It may be told some seconds after
    :class:`ScriptSaved`, or without one where the script has used other means."""

    attempt: int
    step: int
    path: str
    save_bytes: int


@dataclass(frozen=True)
class TokensSeen(Event):
    """A trainer's steps up to this one have had so many tokens on average, of all ranks, padding included. It
    is told again when that has moved; what the configuration says of tokens stands above it."""

    attempt: int
    step: int
    tokens_per_step: int


@dataclass(frozen=True)
class OpCompiling(Event):
    """Ranks compile an operation of C++ or CUDA that is not there yet, and cannot go on before; it takes
    minutes."""

    attempt: int
    op: str


@dataclass(frozen=True)
class OpCompiled(Event):
    """The operation is there, after ``seconds`` of the first rank that has it."""

    attempt: int
    op: str
    seconds: float


@dataclass(frozen=True)
class LossNotFinite(Event):
    """The loss of a step is NaN or infinite on so many ``ranks``, of which ``first`` names some, in order. It
    comes before its :class:`StepDone`, whose loss is the mean over all."""

    attempt: int
    step: int
    first: list[int]
    ranks: int
    of_ranks: int
