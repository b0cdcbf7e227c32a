"""What happens to a run goes into its journal first, and then to whoever is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.driver.observer import Observer
from orchestrator.driver.wiring import Books, Wired
from orchestrator.errors import RunDirectoryError
from orchestrator.events import BudgetSettled, Event, Record, RunEnded
from orchestrator.ledger.journal import Journal, disk_is_full
from orchestrator.redact import redact_fields
from orchestrator.supervise.loop import StopRequest

_SPACE_S = 1.0


class OnRecord:
    """Puts what happens on record, and then tells it: the journal comes before anything that follows from
    it."""

    def __init__(self, run: Wired, books: Books, observers: Sequence[Observer]) -> None:
        self._run, self._books, self._observers = run, books, observers
        self.last: Record | None = None
        self.settled: BudgetSettled | None = None

    def put(self, event: Event) -> None:
        run, ledger = self._run, self._books.ledger
        self.last = record = append(self._books.journal, event, run.view.notice, run.stop)
        if isinstance(event, BudgetSettled):
            self.settled = event
        if isinstance(event, RunEnded):
            run.sink.run_ended()
        self._books.fold.appended(record)
        # so that what is told while it goes on is what the journal says afterwards
        if record.event.durable:
            ledger.fold(record)
        bill = ledger.bill(record.elapsed_s)
        for observer in self._observers:
            observer.observe(record, bill)


def append(journal: Journal, event: Event, notice: Callable[[str], None], stop: StopRequest) -> Record:
    """Append, and while the disk is full wait for space: nothing happens that is not on record."""
    announced = False
    while True:
        try:
            return journal.append(redact_fields(event))
        except RunDirectoryError as error:
            if not disk_is_full(error) or stop.level > 1:
                raise
            if not announced:
                notice(f"{error}; waiting for space, nothing is lost meanwhile")
            announced = True
            time.sleep(_SPACE_S)
