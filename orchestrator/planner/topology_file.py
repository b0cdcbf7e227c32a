"""``cluster.topology.file``: read, and refused where it cannot be what is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator import papers
from orchestrator.config.placement_schema import TopologyUse
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.text import plural
from orchestrator.topology import files
from orchestrator.topology.files import Said
from orchestrator.topology.levels import levels_of
from orchestrator.topology.tree import Labelled, Tree, tree_of


def said_of_file(config: Config) -> list[Said]:
    """What the file says, node by node; nothing where none is named. Raises :class:`ConfigError`."""
    wanted = config.placement
    if wanted.level is not None and wanted.topology is not TopologyUse.required:
        raise ConfigError(
            f"placement.level={wanted.level}: is read where a domain of it is required; write"
            " placement.topology=required too, or placement.level=null"
        )
    name = config.cluster.topology.file
    if name is None or config.placement.topology is TopologyUse.off:
        return []
    try:
        found = files.read(papers.read_text(Path(name).expanduser(), files.MOST_BYTES))
    except FileNotFoundError:
        raise ConfigError(
            f"cluster.topology.file={name}: no such file; give one that is there, or"
            " cluster.topology.file=null for the labels of the cluster's nodes alone"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or papers.one_line(str(error))
        raise ConfigError(f"cluster.topology.file={name}: cannot be read ({reason}); mend it") from None
    if len(found) < config.cluster.nodes:
        raise ConfigError(
            f"cluster.topology.file={name}: names {plural(len(found), 'node')}, and"
            f" cluster.nodes={config.cluster.nodes}; name the others too, or lower cluster.nodes"
        )
    return found


def tree_of_said(config: Config, said: Sequence[Said]) -> Tree | None:
    """The tree of the nodes that the file names; None where none is named. Raises :class:`ConfigError`."""
    levels = levels_of(config.cluster.topology.levels)
    if not said:
        return None
    nodes = [Labelled(each.names[0], each.names[0], each.labels) for each in said]
    where = f"cluster.topology.file={config.cluster.topology.file}"
    tree = tree_of(levels, nodes, where)
    if not tree.levels:
        known = ", ".join(level.name for level in levels)
        raise ConfigError(
            f"{where}: none of its nodes has a label that is a level of the network ({known}); name its"
            " labels far to near, as 'cluster.topology.levels=[hall,row]'"
        )
    check_level(config, tree, where)
    return tree


def check_level(config: Config, tree: Tree, where: str) -> None:
    """Raises :class:`ConfigError` for a ``placement.level`` of which nobody has said anything."""
    level = config.placement.level
    if level is not None and level not in tree.levels:
        raise ConfigError(
            f"placement.level={level}: is none of the levels of {where} ({', '.join(tree.levels)}); write one"
            " of those, or placement.level=null for the nearest that holds the run"
        )
