"""The runs of a sweep, one after the other: what each came to goes back to Hydra's sweeper, and a table of
them all ends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.cli.verbs import is_swept, run_shown

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.config.sweep_schema import SweepConfig


def is_run_of_sweep(invocation: Invocation) -> bool:
    """Whether this is one of several runs, one after the other."""
    return invocation.verb == "run" and is_swept()


def refuse_blind(composed: DictConfig | None, invocation: Invocation) -> None:
    """Raises :class:`~orchestrator.errors.ConfigError` before the first run of a sweep that nobody could
    lead: Optuna asks for a figure when the run has been paid for. ``composed`` is what all runs share, with
    Hydra's own part; None of words that are half typed."""
    from hydra.types import RunMode

    from orchestrator.config.sweeping import check_sweep

    if composed is not None and (invocation.multirun or composed.hydra.mode is RunMode.MULTIRUN):
        check_sweep(_asked(composed), composed.hydra.sweeper, invocation.verb)


@dataclass
class RunSweep:
    """All runs so far: where each is, in which words it differs, and what it came to."""

    folders: list[Path] = field(default_factory=list)
    points: list[tuple[str, ...]] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    asked: SweepConfig | None = None

    @property
    def came_to(self) -> float | None:
        """The last one."""
        return self.values[-1] if self.values else None

    def add(self, composed: DictConfig, invocation: Invocation) -> int:
        """Run one point, with the words of that one."""
        from hydra.core.hydra_config import HydraConfig

        from orchestrator.cli.show.run_view import RunOnTerminal
        from orchestrator.config.sweeping import keys_of
        from orchestrator.driver.objective import came_to

        view, self.asked = RunOnTerminal(Screen()), _asked(composed)
        words, varied = tuple(HydraConfig.get().overrides.task), keys_of(invocation.words, _sweeper())
        plain = [word.lstrip("+") for word in words]
        self.points.append(tuple(word for word in plain if word.partition("=")[0] in varied))
        try:
            return run_shown(composed, replace(invocation, words=words), view, varied)
        finally:
            self.folders += [view.folder] if view.folder is not None else []
            self.values.append(came_to(self.asked, view.folder))

    def show(self) -> int:
        """Print them side by side, from their journals: MLflow need not have all of it yet."""
        from orchestrator.cli.show.runs_table import print_table
        from orchestrator.driver.objective import verdict
        from orchestrator.driver.rows import rows_of

        console = Screen()
        console.print()
        print_table(rows_of(self.folders, None if self.asked is None else self.asked.loss), console)
        values = [value for value in self.values if value is not None]
        if self.asked is not None and (text := verdict(self.asked, values, self.points)) is not None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        return 0


def _sweeper() -> Mapping[str, Any]:
    from hydra.core.hydra_config import HydraConfig

    return cast(Mapping[str, Any], HydraConfig.get().sweeper)


def _asked(composed: DictConfig) -> SweepConfig:
    from omegaconf import OmegaConf

    return cast("SweepConfig", OmegaConf.to_object(composed.sweep))
