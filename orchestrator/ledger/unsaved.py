"""What a run would lose if it were stopped at this moment: the dollars since the newest safe state."""

from __future__ import annotations

from orchestrator.events import (
    AttemptStarted,
    CheckpointSaved,
    Record,
    ResourcesReleased,
    RunResumed,
    SnapshotCommitted,
)
from orchestrator.ledger.bill import Bill

# Of saves whose commit is to come; a script that saves each step has few at a time.
_MOST_SAVES = 1000


class Unsaved:
    """Folds the events of a run. A checkpoint makes safe what was spent until it was *saved*; that it is on
    the disk is known later. What a fault has lost is lost already, and is not at risk any more."""

    def __init__(self) -> None:
        self._safe_usd = self._spent_usd = 0.0
        self._saved_usd: dict[
            int, float
        ] = {}  # what was spent by then, by step; of saves not on the disk yet

    def observe(self, record: Record, bill: Bill) -> None:
        """Take an event into account, with the bill at its time."""
        self._spent_usd = spent_usd = bill.cost_usd
        match record.event:
            case CheckpointSaved(step=step, staged=True):
                self._saved_usd[step] = spent_usd
                if len(self._saved_usd) > _MOST_SAVES:
                    del self._saved_usd[min(self._saved_usd)]
            case CheckpointSaved():
                self._safe_usd = spent_usd
            case SnapshotCommitted(step=step):
                self._safe_usd = max(self._safe_usd, self._saved_usd.get(step, 0.0))
                self._saved_usd = {one: usd for one, usd in self._saved_usd.items() if one > step}
            case AttemptStarted(restore_step=step):
                # what is loaded from memory is newer than the disk, and would be lost
                saved_usd = self._safe_usd if step is None else self._saved_usd.get(step, self._safe_usd)
                beyond_usd = max(0.0, saved_usd - self._safe_usd)
                self._safe_usd = spent_usd - beyond_usd
                self._saved_usd = {step: spent_usd} if step is not None and beyond_usd else {}
            case ResourcesReleased() | RunResumed():
                self._safe_usd, self._saved_usd = spent_usd, {}

    @property
    def at_risk_usd(self) -> float:
        """Dollars."""
        return max(0.0, self._spent_usd - self._safe_usd)
