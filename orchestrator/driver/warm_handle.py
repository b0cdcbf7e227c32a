"""A cluster that stays up in the hand of a program: what the verbs ``up``, ``status`` and ``down`` do, each
in a process of its own, so that neither Ray nor its settings come into the program's own."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from orchestrator.config import load
from orchestrator.config.schema import Config
from orchestrator.driver.child import ask
from orchestrator.driver.cluster_status import ClusterSeen
from orchestrator.errors import ClusterError
from orchestrator.redact import known

# Ray's start, the imports of every node's zygote, and a machine that is busy.
_TIMEOUT_S = 600.0


class WarmCluster:
    """A cluster that is up from ``with`` to its end, with torch imported on every node; runs that are started
    meanwhile attach to it by themselves. One that was up before is completed, and stays."""

    def __init__(self, config: Config) -> None:
        """Made by :func:`orchestrator.warm_cluster`.

        Args:
            config: What the cluster is to be.
        """
        self._config = config
        self._began = False
        self.notes: list[str] = []  # what was said of it, as the verbs print it
        self.address: str | None = None  # of its Ray, while it is up

    def __enter__(self) -> Self:
        answer = self._ask("up")
        self.address, self._began = answer["seen"]["address"], answer["began"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._began:
            try:
                self.down()
            except ClusterError as why:  # runs are on it: what happened to the program does not end them
                if error is None:
                    raise
                error.add_note(f"the cluster stays up: {why}")

    def status(self) -> ClusterSeen:
        """Return nodes, zygotes and runs, and what these cost so far.

        Raises:
            ClusterError: No cluster is up, or it does not answer.
        """
        seen: ClusterSeen = self._ask("status")["seen"]
        return seen

    def down(self, force: bool = False) -> None:
        """End the zygotes, and Ray where it was started for this.

        Args:
            force: Whether runs that are on it are ended with it.

        Raises:
            ClusterError: Runs are on it.
        """
        self._ask("down", force=force)
        self.address, self._began = None, False

    def _ask(self, verb: str, **more: Any) -> dict[str, Any]:
        payload = {"cluster": verb, "config": load.to_container(self._config), "secrets": known(), **more}
        child, answer = ask(payload, _TIMEOUT_S)
        child.wait()
        self.notes += answer["notes"]
        return answer


def warm_cluster(config: Config) -> WarmCluster:
    """Keep a cluster warm: ``with orchestrator.warm_cluster(config) as cluster``. Nothing is started before
    ``with``.

    Args:
        config: Of :func:`orchestrator.compose`; of it count ``launch.*``, ``ray_address`` and what its nodes
            are.

    Raises:
        OrchestratorError: On ``with``, whatever the verb ``up`` is refused for.
    """
    return WarmCluster(config)
