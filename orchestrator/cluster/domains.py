"""Where the nodes of a Ray cluster are, and which of them a run takes; ``ray`` is not asked here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.placement import ClusterState, PlacementRequest, is_group_of
from orchestrator.config.placement_schema import TopologyUse
from orchestrator.errors import ConfigError, near_miss
from orchestrator.text import plural
from orchestrator.topology.choose import choose, nearest
from orchestrator.topology.files import Said
from orchestrator.topology.levels import KNOWN, Level
from orchestrator.topology.order import ordered
from orchestrator.topology.tree import Labelled, Tree, tree_of

_MOST_NAMED = 4


@dataclass(frozen=True)
class PlacementRules:
    """What the user asks for, what a file says of nodes, and the fabric's ``oversubscription`` by level;
    ``unit`` nodes of the run talk most among themselves."""

    use: TopologyUse = TopologyUse.off
    level: str | None = None
    levels: tuple[Level, ...] = KNOWN
    file: str | None = None
    said: tuple[Said, ...] = ()
    unit: int = 0
    oversubscription: Mapping[str, float] = field(default_factory=dict)

    @property
    def required(self) -> bool:
        return self.use is TopologyUse.required


@dataclass
class Domains:
    """The tree of a cluster's nodes, looked at anew as they come and go. A node that has gone keeps its
    place, so that another can be found near it. ``notice`` is told once of nodes that a file leaves out."""

    rules: PlacementRules
    notice: Callable[[str], None] = lambda _text: None
    _known: dict[str, Labelled] = field(default_factory=dict)
    _noticed: set[str] = field(default_factory=set)
    _held_in: int | None = None  # the level of which one domain holds the run

    def tree(self, nodes: Sequence[Mapping[str, Any]]) -> Tree | None:
        """Of these nodes, as :func:`ray.nodes` has them, and those known before; None where it is of no use.

        Raises :class:`ConfigError` for labels that contradict each other, and for a file of other nodes.
        """
        rules = self.rules
        if rules.use is TopologyUse.off:
            return None
        said = self._said_of(nodes)
        for node in nodes:
            labels = {str(key): str(value) for key, value in (node.get("Labels") or {}).items()}
            name = str(node["NodeManagerHostname"])
            self._known[node["NodeID"]] = Labelled(
                node["NodeID"], name, labels | dict(said.get(node["NodeID"], {}))
            )
        where = f"labels of nodes, with cluster.topology.file={rules.file}," if rules.file else ""
        tree = tree_of(rules.levels, list(self._known.values()), where)
        if not tree.levels and rules.required:
            raise ConfigError(
                "placement.topology=required: no node has a label that says where it is"
                f" ({', '.join(level.name for level in rules.levels)}); start Ray on each with"
                " --labels=rack=NAME, name a cluster.topology.file, or write placement.topology=preferred"
            )
        if rules.level is not None and tree.levels and rules.level not in tree.levels:
            close = near_miss(rules.level, tree.levels)
            raise ConfigError(
                f"placement.level={rules.level}: no node has a label for it{close} (they have"
                f" {', '.join(tree.levels)}); write one of those, or placement.level=null"
            )
        divided = any(len(tree.domains(level, tree.paths)) > 1 for level in range(len(tree.levels)))
        return tree if divided else None  # of nodes that are all in one zone, say, there is nothing to choose

    def chosen(self, tree: Tree, asked: PlacementRequest, seen: ClusterState, own: str) -> list[str] | None:
        """The nodes that the run takes, in the order of its ranks; None where they are not free."""
        within = self._within(tree, asked, seen) if self.rules.required else None
        if self.rules.required and within is None:
            return None
        rules, free = self.rules, free_nodes(asked, seen, own)
        found = choose(tree, free, asked.nodes, rules.unit, within, rules.oversubscription)
        return None if found is None else self.in_order(tree, found)

    def in_order(self, tree: Tree, nodes: Sequence[str]) -> list[str]:
        """These nodes as the run's ranks are to be numbered over them."""
        return ordered(tree, nodes, self.rules.unit)

    def successor(
        self, tree: Tree | None, lost: str, own: Collection[str], asked: PlacementRequest, seen: ClusterState
    ) -> str | None:
        """A free node, none of the run's ``own``, to take the place of a lost one: in its domain if it can
        be. With ``required`` it has to be in the domain that holds the run; None where none is free."""
        free = [node for node in free_nodes(asked, seen) if node not in own]
        if tree is None or lost not in tree.paths:
            return free[0] if free else None
        level = self._held_in if self.rules.required else None
        if level is not None:
            free = [node for node in free if tree.paths[node][level] == tree.paths[lost][level]]
        return nearest(tree, lost, free)

    def waiting(self, tree: Tree, asked: PlacementRequest, seen: ClusterState) -> str:
        """What is said while there is hope of one domain that holds the run."""
        name, free, _ = self._free_in_words(tree, asked, seen)
        return f"waiting up to {asked.wait_s:g} s for {asked} in one {name} ({free})"

    def missing(self, tree: Tree, asked: PlacementRequest, seen: ClusterState) -> str:
        """What is said when there is none."""
        name, free, large_enough = self._free_in_words(tree, asked, seen)
        why = "so many"
        why += f" free within {asked.wait_s:g} s" if large_enough else ""
        return (
            f"placement.topology=required: the plan needs {asked} in one {name}, and no {name} had {why}"
            f" ({free}); wait for other runs, lower cluster.nodes, or write placement.topology=preferred to"
            " take several"
        )

    def _free_in_words(
        self, tree: Tree, asked: PlacementRequest, seen: ClusterState
    ) -> tuple[str, str, bool]:
        """The level that is asked for, how many nodes of its largest domains are free, and whether one is
        large enough."""
        able, free = able_nodes(asked, seen), set(free_nodes(asked, seen))
        level = self._within(tree, asked, seen)
        place = level if level is not None else tree.levels.index(self.rules.level or tree.levels[0])
        name = tree.levels[place]
        sizes = sorted(tree.domains(place, able).items(), key=lambda item: (-item[1], item[0]))
        said = []
        for domain, size in sizes[:_MOST_NAMED]:
            inside = [node for node in able if tree.paths[node][place] == domain]
            called = tree.domain(inside[0], place) or f"a node of no {name}"
            said.append(f"{len(free & set(inside))} of {size} in {called}")
        more = f" and {len(sizes) - _MOST_NAMED} more" if len(sizes) > _MOST_NAMED else ""
        return name, f"free are {', '.join(said) or 'none'}{more}", level is not None

    def _within(self, tree: Tree, asked: PlacementRequest, seen: ClusterState) -> int | None:
        """The level of which one domain has to hold the run: the one that is asked for, else the nearest that
        has a domain with enough nodes; None where no domain has."""
        able = able_nodes(asked, seen)
        only = self.rules.level
        levels = range(len(tree.levels)) if only is None else [tree.levels.index(only)]
        for level in reversed(levels):
            if max(tree.domains(level, able).values(), default=0) >= asked.nodes:
                self._held_in = level
                return level
        return None

    def _said_of(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, str]]:
        """What the file says of each node by Ray's id of it. Raises :class:`ConfigError` where it says
        nothing of some and has others that are not there: a name is misspelt then, and no node is away."""
        if not self.rules.said:
            return {}
        by_name = {name: each for each in self.rules.said for name in each.names}
        found: dict[str, Mapping[str, str]] = {}
        used: set[str] = set()
        left_out: list[str] = []
        for node in nodes:
            host = str(node["NodeManagerHostname"])
            names = (node["NodeID"], host, host.partition(".")[0], str(node.get("NodeManagerAddress", "")))
            name = next((name for name in names if name in by_name), None)
            if name is None:
                left_out.append(host)
            else:
                found[node["NodeID"]] = by_name[name].labels
                used |= set(by_name[name].names)
        unknown = [each.names[0] for each in self.rules.said if not used & set(each.names)]
        self._check_names(sorted(left_out), unknown)
        return found

    def _check_names(self, left_out: Sequence[str], unknown: Sequence[str]) -> None:
        where = f"cluster.topology.file={self.rules.file}"
        if left_out and unknown:
            raise ConfigError(
                f"{where}: names {_some(unknown)}, which {'is' if len(unknown) == 1 else 'are'} not in the"
                f" cluster, and leaves out {_some(left_out)}; name nodes by"
                " host or address, or write placement.topology=off"
            )
        if left_out and (said := f"{where}: leaves out {_some(left_out)}") not in self._noticed:
            self._noticed.add(said)
            self.notice(f"{said}, which may be anywhere: each counts as a place of its own")


def able_nodes(asked: PlacementRequest, seen: ClusterState) -> list[str]:
    """Those that can give a bundle, whoever holds them."""
    return [
        node["NodeID"]
        for node in seen.nodes
        if node["NodeID"] not in seen.draining
        and asked.may_give(node["NodeID"])
        and all(node["Resources"].get(kind, 0.0) >= amount for kind, amount in asked.needs.items())
    ]


def free_nodes(asked: PlacementRequest, seen: ClusterState, own: str = "") -> list[str]:
    """Those that can give one now; what groups of a run called ``own`` hold is being let go."""
    by_id = {node["NodeID"]: node["Resources"] for node in seen.nodes}
    free = []
    for node_id in able_nodes(asked, seen):
        held = [
            bundle for name, bundle in seen.held.get(node_id, []) if not own or not is_group_of(name, own)
        ]
        if all(
            by_id[node_id].get(kind, 0.0) - sum(bundle.get(kind, 0.0) for bundle in held) >= amount
            for kind, amount in asked.needs.items()
        ):
            free.append(node_id)
    return free


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {plural(more, 'other')}" if more > 0 else shown
