"""The error tree. Every error carries one message for a person and an exit code for a program.

::

    OrchestratorError                    1  something a person should read, without a traceback
    ├── ConfigError                      2  bad input: refused before anything is started or spent
    │   └── ClusterNotPlannable          2  a cluster that a search of the best run has to leave out
    ├── ClusterError                     3  no such cluster, not enough of it, or nodes that differ
    │   ├── ClusterUnreachable           3
    │   ├── NotEnoughResources           3
    │   ├── NodeMismatch                 3
    │   ├── NodeLost                     3  a node's agent died while an attempt was prepared: a fault
    │   ├── RankStartError               3  a rank could not be started
    │   └── Cancelled                    3  somebody asked to stop while resources were waited for
    ├── RunDirectoryError                4  unwritable, or held by another live run
    ├── TrackingError                    5  MLflow is required and does not answer
    ├── TrainingFailed                   6  the job itself failed; the message is the diagnosis
    │   └── CheckpointError              6  a checkpoint that cannot be taken, written or loaded
    │       ├── ManifestError            6  its manifest does not fit, or cannot be trusted
    │       └── RestoreError             6  what was to be loaded was not, or must not be
    └── JournalError                     7  the journal is damaged in a way that is not a torn last line

A run that has saved and stopped for its budget exits with 8, an interrupted one with 130 (Ctrl-C) or 143
(SIGTERM), as shells expect. Every error survives pickling: its arguments are its message and nothing else,
and what else it knows are attributes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

SIGNALLED = 128  # and the number of the signal that asked for it
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BUDGET_REACHED = 8


class OrchestratorError(Exception):
    """Base of every error that is meant for a person; ``exit_code`` is the process's exit status."""

    exit_code = 1


class ConfigError(OrchestratorError):
    """Bad input, refused before anything is started or spent."""

    exit_code = 2


class ClusterNotPlannable(ConfigError):
    """A cluster that a search for the best run has to leave out: ``cluster`` is its name, ``why`` the
    reason."""

    cluster = why = ""

    @classmethod
    def of(cls, cluster: str, why: str) -> Self:
        refused = cls(f"cluster={cluster}: {why}")
        refused.cluster, refused.why = cluster, why
        return refused


class ClusterError(OrchestratorError):
    """The cluster cannot do what the plan asks."""

    exit_code = 3


class ClusterUnreachable(ClusterError):
    """No Ray cluster answers at the address, or it refuses us."""


class NotEnoughResources(ClusterError):
    """The cluster lacks nodes, GPUs or CPUs; the message names what is missing."""


class Cancelled(ClusterError):
    """The wait for resources was given up because somebody asked to stop."""


class NodeMismatch(ClusterError):
    """A node's interpreter, packages, script, corpus or GPUs differ from the plan."""


class NodeLost(ClusterError):
    """A node's agent died while it was asked something: ``node`` is the node's name, ``how`` what happened to
    it."""

    node = how = ""

    @classmethod
    def of(cls, node: str, how: str) -> Self:
        lost = cls(f"{node}: {how}")
        lost.node, lost.how = node, how
        return lost


class RankStartError(ClusterError):
    """A rank could not be started. The message says why and what to do."""


class RunDirectoryError(OrchestratorError):
    """The run directory cannot be written, or another live run holds it."""

    exit_code = 4


class TrackingError(OrchestratorError):
    """MLflow does not answer and ``tracking.required`` is true."""

    exit_code = 5


class TrainingFailed(OrchestratorError):
    """The job failed and the policy gave up; the message is the diagnosis."""

    exit_code = 6


class CheckpointError(TrainingFailed):
    """A checkpoint cannot be taken, written or loaded."""


class ManifestError(CheckpointError, ValueError):
    """A manifest that cannot be trusted or does not fit the files; the message is one line."""


class RestoreError(CheckpointError):
    """What was to be loaded was not, or must not be. The message says what and what to do."""

    fault = "restore"  # of an attempt, see :class:`~orchestrator.events.Fault`


class JournalError(OrchestratorError):
    """The journal holds something that is neither a record nor a torn last line."""

    exit_code = 7


def near_miss(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
