"""All that is derived from a journal, folded from its records: what a look at a run and the next driver
need."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.events import Record, RunEnded, RunResumed, RunStarted, StopRequested
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.stop_times import StopTimes
from orchestrator.ledger.story import Story
from orchestrator.supervise.loop import ResumeState


@dataclass
class Folded:
    """Folds records, in the journal's order. ``started`` is the record of the run's first event, ``last`` the
    newest record, ``driver`` how the newest driver began or ended where that is not with the run itself,
    ``stopped_by`` who asked that one to stop, "" where nobody did."""

    ledger: Ledger = field(default_factory=Ledger)
    story: Story = field(default_factory=lambda: Story(None))
    resume_state: ResumeState = field(default_factory=ResumeState)
    stop_times: StopTimes = field(default_factory=StopTimes)
    started: Record | None = None
    last: Record | None = None
    driver: RunEnded | RunResumed | None = None
    stopped_by: str = ""

    def fold(self, record: Record) -> None:
        """Take one record into account."""
        self.ledger.fold(record)
        self.story.lines(record)
        self.resume_state.fold(record.event)
        self.stop_times.fold(record)
        self.last = record
        if isinstance(record.event, RunStarted):
            self.started = self.started or record
        elif isinstance(record.event, RunEnded | RunResumed):
            self.driver = record.event
            if isinstance(record.event, RunResumed):
                self.stopped_by = ""
        elif isinstance(record.event, StopRequested):
            self.stopped_by = record.event.by

    @property
    def run(self) -> RunStarted | None:
        """What the run said of itself at its beginning."""
        event = self.started.event if self.started else None
        return event if isinstance(event, RunStarted) else None
