"""The one place that keeps a failing probe away from the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.rank.link import Link
from orchestrator.rank.messages import ProbeFailed


class Guard:
    """Runs what probes do. The first time that something goes wrong it says so, and from then on it runs
    nothing more."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.broken = False

    def __call__(self, where: str, probe: Callable[..., None], *args: Any) -> None:
        """Call ``probe(*args)``; ``where`` says for a person what it is that failed."""
        if self.broken:
            return
        try:
            probe(*args)
        except Exception as error:  # noqa: BLE001 - a step already done must not be lost to its measuring
            self.broken = True
            self._link.send(ProbeFailed(where, f"{type(error).__name__}: {error}"))
