"""What nodes remark, which people read once however many nodes say it."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.agent.messages import ScriptPreloaded


class Remarks:
    """Of one run; ``notice`` shows a line to people."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._said: set[str] = set()
        self._preloads: set[tuple[str, ...]] = set()

    def say(self, text: str, name: str = "") -> None:
        """``name`` is the first node that said so."""
        if text not in self._said:
            self._said.add(text)
            self._notice(f"{name}: {text}" if name else text)

    def preloaded(self, part: ScriptPreloaded) -> None:
        """What all nodes have done alike; how long it took is the first one's."""
        if part.imported and part.imported not in self._preloads:
            self._preloads.add(part.imported)
            names = ", ".join(part.imported)
            took = "" if part.seconds is None else f" ({part.seconds:.1f} s)"
            self._notice(f"the {'warm ' if not took else ''}zygote has imported {names}{took}")
        for name, why in part.left_out.items():
            rest = ",".join(part.imported)
            self.say(f"{name} is left to the ranks to import: {why}; launch.preload=[{rest}] spares the try")
