"""When a script validates: between `eval()` and `train()` of an engine, and in a pipeline's `eval_batch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.rank.link import Link
from orchestrator.rank.probes.own_time import OwnTime


class Validation:
    """Sets the link's phase; what happens in it is not a rank's own work at a step. Wraps methods of
    engines."""

    def __init__(self, link: Link, own_time: OwnTime) -> None:
        self._link = link
        self._own_time = own_time
        self._under_way = False
        self._phase_before = ""

    def begin(self) -> None:
        if self._under_way:
            return
        self._under_way, self._phase_before = True, self._link.phase
        self._own_time.pause()
        self._link.progress += 1
        self._link.enter("validation")

    def end(self) -> None:
        """Nothing happens when none is under way."""
        if not self._under_way:
            return
        self._under_way = False
        self._own_time.resume()
        self._link.progress += 1
        if self._link.phase == "validation":  # and no other engine was made meanwhile
            self._link.enter(self._phase_before)

    def around_eval(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def eval(engine: Any) -> Any:
            self.begin()
            return original(engine)

        return eval

    def around_train(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train(engine: Any, mode: bool = True) -> Any:
            if mode:
                self.end()
            else:
                self.begin()
            return original(engine, mode)

        return train

    def around_eval_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def eval_batch(engine: Any, *args: Any, **kwargs: Any) -> Any:
            self.begin()
            try:
                return original(engine, *args, **kwargs)
            finally:
                self.end()

        return eval_batch
