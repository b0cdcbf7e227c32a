"""Tells when a rank compiles an operation of C++ or CUDA, as DeepSpeed does with its own at first use."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from orchestrator.rank.link import Link
from orchestrator.rank.messages import OpBuildBegun, OpBuildEnded
from orchestrator.rank.probes.import_hook import when_imported
from orchestrator.rank.probes.torch_loop import wrap


class Compiling:
    """Around torch's loader of extensions, which compiles what it does not have, or waits for the rank that
    does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def attach_when_imported(self) -> None:
        """Attach now if it is there, or as soon as somebody has imported it."""
        when_imported("torch.utils.cpp_extension", self.attach)

    def attach(self, module: Any) -> None:
        for name in ("load", "load_inline"):
            wrap(module, name, self._around)

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(name: Any, *args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            self._link.progress += 1
            self._link.send(OpBuildBegun(str(name)))
            try:
                return original(name, *args, **kwargs)
            finally:
                self._link.progress += 1
                self._link.send(OpBuildEnded(str(name), time.perf_counter() - begin))

        return load
