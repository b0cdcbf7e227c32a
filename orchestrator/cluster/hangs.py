"""No rank makes progress: ask all where they are, and name those that keep the others waiting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.merge import Part
from orchestrator.cluster.nodes import Node, Nodes
from orchestrator.cluster.stacks import ANSWER_S, GONE, Seen, name_culprits
from orchestrator.events import Fault, RankLost

# Nodes answer within seconds; one that does not is left out of the verdict.
_NODE_ANSWER_S = ANSWER_S + 5.0
_MOST_NAMED = 8


def all_overdue(told: Mapping[int, Part], nodes: int) -> bool:
    """Whether no rank that is left makes progress; a node without ranks waits for nobody."""
    return len(told) == nodes and all(part["all"] for part in told.values()) and any(p["ranks"] for p in told.values())


@dataclass
class Inquiry:
    """One hang, from the moment that all ranks are overdue to the verdict."""

    attempt: int
    step: int
    overdue: Mapping[str, Any]
    nodes: int
    begun_s: float
    answers: dict[int, tuple[Node, Part]] = field(default_factory=dict)

    def hear(self, node: Node, part: Part) -> None:
        """A node says where its ranks are."""
        self.answers[node.index] = node, part

    @property
    def moot(self) -> bool:
        """Whether a rank has ended meanwhile: that is told by itself."""
        return any(one["state"] == GONE for _, part in self.answers.values() for one in part["ranks"])

    def verdict(self, now_s: float) -> RankLost | None:
        """The rank to blame, once the nodes have told where their ranks are."""
        if len(self.answers) < self.nodes and now_s - self.begun_s < _NODE_ANSWER_S:
            return None
        told = {one["rank"]: (node, one) for node, part in self.answers.values() for one in part["ranks"]}
        seen = {rank: Seen(one["entered"], one["where"], one["state"]) for rank, (_, one) in told.items()}
        culprits = name_culprits(list(seen.items()))
        rank = culprits[0] if culprits else int(self.overdue["rank"])
        node_name, one = ("unknown", _UNHEARD) if rank not in told else (told[rank][0].name, told[rank][1])
        others = f"; {_never_entered(culprits)}" if 0 < len(culprits) < len(seen) else ""
        silent_s = float(self.overdue["silent_s"]) + now_s - self.begun_s
        return RankLost(
            attempt=self.attempt,
            rank=rank,
            node=node_name,
            gpu=one["gpu"],
            exit_status=0,
            step=self.step,
            reason=f"no rank made progress for {silent_s:.0f} s",
            error=f"no progress for {silent_s:.0f} s in phase {self.overdue['phase']}{others}; {_place(rank, one)}",
            log_tail=list(one["stack"]),
            log_path=one["path"],
            alike=max(1, len(culprits)) if len(culprits) < len(seen) else 1,
            fault=Fault.HANG,
            detected_s=round(silent_s, 3),
        )


_UNHEARD: dict[str, Any] = {"gpu": "unknown", "stack": [], "path": "", "state": "not heard of", "where": ""}


def begin(attempt: int, step: int, told: Iterable[Part], nodes: Nodes, now_s: float) -> Inquiry:
    """Have all ranks of the run write down where they are."""
    overdue = [one for part in told for one in part["ranks"]]
    nodes.tell("ask_stacks")
    return Inquiry(attempt, step, max(overdue, key=lambda one: one["silent_s"]), len(nodes.all), now_s)


def _never_entered(ranks: list[int]) -> str:
    named = ", ".join(map(str, ranks[:_MOST_NAMED]))
    more = f" and {len(ranks) - _MOST_NAMED} more" if len(ranks) > _MOST_NAMED else ""
    who = f"rank {named}" if len(ranks) == 1 else f"ranks {named}{more}"
    return f"{who} never entered the collective that the others wait in"


def _place(rank: int, one: Mapping[str, Any]) -> str:
    where = f" at {one['where']}" if one["where"] else ""
    return f"rank {rank} is {one['state']}{where}"
