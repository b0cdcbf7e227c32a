"""All that is derived from a journal, folded from its records: what a look at a run and the next driver
need."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.events import Record, RunEnded, RunResumed, RunStarted
from orchestrator.ledger.incidents import Incidents
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.predicted_actual import PredictedVsActual
from orchestrator.ledger.story import Story
from orchestrator.supervise.loop import ResumeState


@dataclass
class Folded:
    """Folds records, in the journal's order. ``started`` is the record of the run's first event, ``last`` the
    newest record, ``driver`` how the newest driver began or ended where that is not with the run itself."""

    incidents: Incidents = field(default_factory=Incidents)
    accuracy: PredictedVsActual = field(default_factory=PredictedVsActual)
    story: Story = field(default_factory=lambda: Story(None))
    resume_state: ResumeState = field(default_factory=ResumeState)
    started: Record | None = None
    last: Record | None = None
    driver: RunEnded | RunResumed | None = None

    def fold(self, record: Record) -> None:
        """Take one record into account."""
        self.incidents.fold(record)
        self.accuracy.fold(record)
        self.story.lines(record)
        self.resume_state.fold(record.event)
        self.last = record
        if isinstance(record.event, RunStarted):
            self.started = self.started or record
        elif isinstance(record.event, RunEnded | RunResumed):
            self.driver = record.event

    @property
    def meter(self) -> Meter:
        """The bill so far."""
        return self.incidents.meter

    @property
    def run(self) -> RunStarted | None:
        """What the run said of itself at its beginning."""
        event = self.started.event if self.started else None
        return event if isinstance(event, RunStarted) else None
