"""What a daemon knows of the nodes of its clusters: which are alive, and of which clusters nobody can say."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.dispatch.seen import SeenNode


class ClustersSeen:
    """As of the newest look. A cluster is known by its address, "" for the one that `up` keeps."""

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._told: set[str] = set()
        self._unknown: frozenset[str] = frozenset()
        self._told_at: dict[str, float] = {}  # when each last told, or when it was first asked

    def look(
        self,
        clusters: Collection[str],
        nodes: Sequence[SeenNode] | None,
        unknown: frozenset[str],
        now: float,
    ) -> None:
        """``nodes`` are those that are alive, None where no cluster answers; of ``unknown`` clusters somebody
        listens who has not said yet which nodes there are."""
        self._alive, self._unknown = {node.node_id for node in nodes or ()}, unknown
        self._told = {node.cluster for node in nodes or ()}
        if nodes is not None and len(clusters) == 1:
            self._told |= set(clusters)
        self._told_at = {
            address: now if address in self._told else self._told_at.get(address, now) for address in clusters
        }

    def are_there(self, cluster: str | None, node_ids: Collection[str]) -> bool | None:
        """Whether all of them are; None where nobody knows, as when a daemon has just begun to lead, or while
        no Ray answers."""
        if cluster in self._unknown or (cluster is not None and cluster not in self._told):
            return None
        return bool(node_ids) and set(node_ids) <= self._alive

    def silent_s(self, cluster: str | None, now: float) -> float:
        """For how long nobody has told of it."""
        return now - self._told_at.get(cluster or "", now)

    def is_unknown(self, cluster: str) -> bool:
        """Whether somebody listens there who has yet to say which nodes there are."""
        return cluster in self._unknown
