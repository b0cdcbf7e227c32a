"""A run and a cluster's verbs on a terminal: what the driver tells, as a person reads it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from orchestrator.cli.show.cluster_status import show_dashboard
from orchestrator.cli.show.plan import show_plan
from orchestrator.cli.show.terminal import Terminal
from orchestrator.driver.folded import Folded
from orchestrator.events import Record
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.plan import Plan


class OnTerminal:
    """A :class:`~orchestrator.driver.observer.Progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def busy(self, what: str) -> AbstractContextManager[object]:
        return self.console.status(what)


class RunOnTerminal(OnTerminal):
    """A :class:`~orchestrator.driver.observer.RunObserver`."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._terminal = Terminal(console, None)
        self.folder: Path | None = None  # of the run, once it has ended

    def planned(self, plan: Plan) -> None:
        show_plan(plan, self.console, brief=True)
        self._terminal = Terminal(self.console, plan.prediction.steps)

    def dashboard(self, url: str, token_path: Path | None) -> None:
        show_dashboard(url, self.console, token_path)

    def notice(self, text: str) -> None:
        self._terminal.notice(text)

    def remember(self, past: Folded) -> None:
        self._terminal.remember(past.story)

    def live(self) -> AbstractContextManager[object]:
        return self._terminal

    def observe(self, record: Record, bill: Bill) -> None:
        self._terminal.observe(record, bill)

    def summary(self, ended: Record | None, ledger: Ledger, where: dict[str, str]) -> None:
        self.folder = Path(where["run directory"])
        self._terminal.summary(ended, ledger, where)
