"""What to do after a failure: a pure function of the history, so that a simulation can test years of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.config import RecoveryConfig
from orchestrator.events import RankLost

# What differs between two occurrences of one and the same error: addresses, ports, pids, times.
_VARIABLE = re.compile(r"0x[0-9a-f]+|\[[^\]]*\]:\d+|\d+(\.\d+)*")


class Action(StrEnum):
    """What the supervisor does next."""

    RESTART = "restart"
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """An action and the reason that a person reads."""

    action: Action
    reason: str


def signature(lost: RankLost) -> tuple[int, str]:
    """What makes two failures the same: the exit status and the error without its numbers."""
    return lost.exit_status, _VARIABLE.sub("#", lost.error or lost.reason)


def decide(failures: Sequence[RankLost], recovery: RecoveryConfig, checkpoint_step: int | None) -> Decision:
    """Restart, or stop with a diagnosis. ``failures`` holds the cause of each failed attempt, oldest first.

    The same failure at the same step twice is the job's own fault: doing it again can only cost
    money. Anything else restarts from the last complete checkpoint, ``recovery.max_restarts`` times.
    """
    last = failures[-1]
    where = f"rank {last.rank} on {last.node} ({last.gpu}) at step {last.step}: {last.error or last.reason}"
    same = [f for f in failures[:-1] if f.step == last.step and signature(f) == signature(last)]
    if same:
        return Decision(Action.STOP, f"stop: the same failure came back at the same step; it is the job's own: {where}")
    if len(failures) > recovery.max_restarts:
        budget = "no restarts are allowed" if recovery.max_restarts == 0 else "all restarts are used up"
        return Decision(Action.STOP, f"stop: {budget} (recovery.max_restarts={recovery.max_restarts}): {where}")
    origin = "the beginning" if checkpoint_step is None else f"the checkpoint of step {checkpoint_step}"
    return Decision(Action.RESTART, f"restart {len(failures)} of {recovery.max_restarts} from {origin}, after {where}")
