"""A sweep that is submitted: each of its points is a job of the queue, and all of them are one group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.cli.args import Invocation
from orchestrator.cli.queue_verbs import queue_of, submit_points
from orchestrator.cli.verbs import is_swept

if TYPE_CHECKING:
    from omegaconf import DictConfig


def is_submitted_sweep(invocation: Invocation) -> bool:
    """Whether this is one of several points that are to be jobs."""
    return invocation.verb == "submit" and is_swept()


@dataclass
class SubmitSweep:
    """The words of all points. They are submitted when the last is known: all, or none where one cannot
    be."""

    points: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, _composed: DictConfig, _invocation: Invocation) -> int:
        """Keep the words of one point."""
        from hydra.core.hydra_config import HydraConfig

        self.points.append(tuple(HydraConfig.get().overrides.task))
        return 0

    def submit(self, first: DictConfig, invocation: Invocation) -> int:
        """``first`` is the configuration of one of them."""
        return submit_points(queue_of(first), self.points, invocation, is_sweep=True)
