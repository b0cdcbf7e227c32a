"""The nodes of a fleet with what its runs and checks have found of them: one that is bad is drained, until it
is found well again or forgiven."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.dispatch.seen import SeenNode
from orchestrator.errors import RunDirectoryError
from orchestrator.ledger.node_notes import AvoidedNodes
from orchestrator.output import without_controls


class NotedNodes:
    """``nodes`` tells those that are alive, None where no cluster answers; ``say`` is told which of them are
    bad, why, and what to type once they are mended."""

    def __init__(
        self, run_root: Path, nodes: Callable[[], tuple[SeenNode, ...] | None], say: Callable[[str], None]
    ) -> None:
        self._run_root, self._nodes, self._say = run_root, nodes, say
        self._notes = AvoidedNodes(run_root)
        self._bad: Mapping[str, str] = {}
        self._told: set[str] = set()
        self._problem = ""

    def nodes(self) -> tuple[SeenNode, ...] | None:
        """Those that are alive, with ``avoided`` set where something bad is known."""
        seen = self._nodes()
        if seen is None:
            return None
        self._look()
        self._tell({node.host for node in seen})
        if not self._bad:
            return seen
        return tuple(replace(node, avoided=True) if node.host in self._bad else node for node in seen)

    def _look(self) -> None:
        """Notes that cannot be read are told once, and those read before stay."""
        try:
            self._bad, problem = self._notes.look(), ""
        except RunDirectoryError as error:
            problem = str(error)
            if problem != self._problem:
                self._say(problem)
        self._problem = problem

    def _tell(self, hosts: set[str]) -> None:
        bad = hosts & self._bad.keys()
        for host in sorted(bad - self._told):
            self._say(
                f"{host}: nothing more starts there, for what was found of it"
                f" ({without_controls(self._bad[host])}); mend it, and type 'orchestrator nodes --forgive"
                f" {host} run_root={self._run_root}'"
            )
        for host in sorted((self._told & hosts) - bad):
            self._say(f"{host}: is used again")
        self._told = (self._told - hosts) | bad
