"""The words of which an event says one: what a journal may hold in their place, and what code compares with.

Each is text too, so that it is written as it is, and a rank's process, which knows none of these classes, can
say it. Where an event's field may be text as well, that is for words of an older journal that are none of
these any more.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class Status(StrEnum):
    """How a run ended; MLflow's own status follows from it."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    BUDGET_REACHED = "budget_reached"  # it has saved and stopped, with what may be spent of it spent


# Nothing broke: somebody, or a budget, wanted the run to stop where it was.
STOPPED_ON_PURPOSE = frozenset({Status.INTERRUPTED, Status.BUDGET_REACHED})


class ProgramKind(StrEnum):
    """What every rank runs."""

    SCRIPT = "script"  # a Python script
    MODULE = "module"  # a Python module, as `python -m` runs it
    COMMAND = "command"  # any other program


class StateSharing(StrEnum):
    """Who makes the ranks share weights, gradients and optimizer states."""

    DEEPSPEED = "deepspeed"  # by ZeRO's stage
    DDP = "ddp"  # nobody: each rank holds all of it
    FSDP = "fsdp"  # torch's FSDP: all of it is shared
    UNKNOWN = "unknown"  # what is planned is ZeRO's stage all the same


class Phase(StrEnum):
    """Where an attempt is on its way to its steps, in this order."""

    START = "start"  # its ranks were started
    IMPORT = "import"  # the script runs
    INITIALIZE = "initialize"  # DeepSpeed builds its engine
    FIRST_STEP = "first_step"
    STEP = "step"


class RestoreSource(StrEnum):
    """Where the checkpoint lies from which an attempt goes on."""

    MEMORY = "memory"
    PARKED = "parked"  # memory that the node's keeper has kept since an agent of the run ended there
    DISK = "disk"


class Action(StrEnum):
    """What is done about a fault."""

    RESTART = "restart"
    REPLACE = "replace"  # wait for the node or take another, then restart
    REWIND = "rewind"  # go back before a rejected loss and leave its batches out
    STOP = "stop"


class Fault(StrEnum):
    """What kind of fault ended an attempt."""

    EXIT = "exit"  # a rank exited or was killed
    MEMORY = "memory"  # the host ran out of memory
    HANG = "hang"  # no progress
    DISK = "disk"  # a rank found no space to write to
    NODE = "node"  # the node, its agent or its Ray is gone or does not answer
    DRAIN = "drain"  # the node is taken away, and that was announced
    LOSS = "loss"  # the loss is not one to go on from
    RESTORE = "restore"  # what was to be loaded was not
    DRIVER = "driver"  # the run's own process was lost


class Verdict(StrEnum):
    """Why a rank was lost, by what its node's counters, its error and its exit status say together."""

    HARDWARE = "hardware"  # a GPU, its memory or a link
    CODE = "code"  # the script, or what it calls
    MEMORY = "memory"  # the host ran out of it
    UNKNOWN = "unknown"  # nothing proves one or the other


class Moment(StrEnum):
    """Of what people are told who do not look at a run."""

    START = "start"  # it began, or was taken up again
    FAULT = "fault"
    RECOVERED = "recovered"  # it trains again
    STRAGGLER = "straggler"  # a rank holds the others up
    BUDGET_WARNING = "budget_warning"  # most of the budget is spent
    BUDGET_REACHED = "budget_reached"
    END = "end"  # however it ended, its driver's loss included
