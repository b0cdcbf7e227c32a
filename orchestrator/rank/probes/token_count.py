"""How many tokens a step has, where a trainer hands over batches of them: what this rank gets, times the
ranks that get others. Shapes are looked at, and no device is waited for."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.rank.link import Link
from orchestrator.rank.messages import TokensCounted

# The mean over all steps is told again when it has moved by more than this share, now and then.
_MOVED, _LOOKED_AT_EVERY_STEPS = 0.01, 50


class TokenCount:
    """Of one rank; padding counts, as it does for the model."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self._step: int | None = None  # the last one done, at the batch before
        self._tokens = self._of_step = self._steps = self._told = 0

    def batch(self, inputs: Any, step: int, ranks_alike: int = 1) -> None:
        """A batch is trained on; ``step`` is the last one done, and so many ranks get the same batch."""
        ids: Any = inputs.get("input_ids") if hasattr(inputs, "get") else None
        if not hasattr(ids, "numel"):
            return
        if self._step is not None and step > self._step:
            self._step_done(step)
        self._step = step
        self._of_step += int(ids.numel()) * self._ranks // max(1, ranks_alike)

    def _step_done(self, step: int) -> None:
        self._tokens, self._of_step = self._tokens + self._of_step, 0
        self._steps += 1
        if self._told and self._steps % _LOOKED_AT_EVERY_STEPS:
            return
        mean = round(self._tokens / self._steps)
        if abs(mean - self._told) > _MOVED * self._told:
            self._told = mean
            self._link.send(TokensCounted(step, mean))
