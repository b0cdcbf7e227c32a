"""What a command asks for, in our words, whoever was to launch it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.vocabulary import ProgramKind

# The one word by which every rank is told its number on its node.
LOCAL_RANK_FLAG = "--local_rank={local_rank}"


@dataclass(frozen=True)
class Launch:
    """A program with its words, and what its launcher was told about it."""

    kind: ProgramKind
    program: str  # as typed: a path, a module's dotted name, a program's name
    argv: tuple[str, ...] = ()
    nodes: int | None = None  # null: the launcher says nothing of it
    ranks_per_node: int | None = None
    # Whether somebody has said so: a launcher's default does not win over a cluster that was named.
    ranks_were_given: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)  # keys and groups that its flags stand for
    # flags whose purpose is served anyhow: the rendezvous, what is printed, who connects to whom
    left_out: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Launch:
        """Of what :func:`dataclasses.asdict` made of one, when it has been JSON meanwhile."""
        lists = {name: tuple(body[name]) for name in ("argv", "left_out")}
        return cls(**{**body, **lists, "kind": ProgramKind(body["kind"])})
