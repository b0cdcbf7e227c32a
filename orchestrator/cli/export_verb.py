"""The verb ``export``, of one point or of a sweep. Everything heavy is imported when it is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.cli.args import Invocation

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.config.schema import Config


def export_one(composed: DictConfig, invocation: Invocation) -> int:
    """One point."""
    from orchestrator.cli.export import check, config_of, export, order_of

    name = check(composed.format, swept=False)
    order = order_of(config_of(composed, invocation.words), invocation.words)
    export(order, name, invocation.out, invocation.force)
    return 0


@dataclass
class ExportSweep:
    """The points of a sweep that is exported as one job."""

    points: list[tuple[Config, tuple[str, ...]]] = field(default_factory=list)

    def add(self, composed: DictConfig, _invocation: Invocation) -> int:
        """Keep one point."""
        from hydra.core.hydra_config import HydraConfig

        from orchestrator.cli.export import check, config_of

        words = tuple(HydraConfig.get().overrides.task)
        check(composed.format, swept=True)
        self.points.append((config_of(composed, words), words))
        return 0

    def show(self, invocation: Invocation) -> int:
        """Write them."""
        from orchestrator.cli.export import export, order_of_sweep

        order = order_of_sweep(self.points, invocation.words)
        export(order, "slurm", invocation.out, invocation.force)
        return 0


def is_exported_sweep(invocation: Invocation) -> bool:
    """Whether this is one of several points that are exported together."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    swept = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    return invocation.verb == "export" and swept
