"""What a driver tells while it works. Nothing in it prints: a terminal, a notebook or nobody listens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from orchestrator.driver.folded import Folded
from orchestrator.events import Record
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.plan import Plan


class Progress(Protocol):
    """Told what is being done, in words for a person."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Entered while ``what`` is being done, which may take seconds or minutes."""


class Observer(Protocol):
    """Told what happens to a run."""

    def observe(self, record: Record, bill: Bill) -> None:
        """An event that is on record, and the bill at its time."""


class RunObserver(Progress, Observer, Protocol):
    """Told of one run, from its plan to its end."""

    def planned(self, plan: Plan) -> None:
        """The run will be this; nothing has been started."""

    def dashboard(self, url: str, token_path: Path | None) -> None:
        """Ray's dashboard is at ``url``; the token for it is in a file of its own, or the user's."""

    def notice(self, text: str) -> None:
        """A line that is no event: what is waited for, for instance."""

    def remember(self, past: Folded) -> None:
        """What an earlier driver of the run has told already."""

    def live(self) -> AbstractContextManager[object]:
        """Entered while records come."""

    def summary(self, ended: Record | None, ledger: Ledger, where: dict[str, str]) -> None:
        """The run has ended. Its ledger has the bill, the incidents and what was predicted; ``where`` says
        where to read on."""
