"""The file that says where a cluster's nodes are, read before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.placement_schema import PlacementConfig, TopologyConfig, TopologyUse
from orchestrator.config.schema import ClusterConfig, Config
from orchestrator.errors import ConfigError
from orchestrator.planner.topology_file import said_of_file, tree_of_said
from orchestrator.topology.tree import Tree

TWO = "nodes:\n  a: {block: b1, rack: r1}\n  b: {block: b1, rack: r2}\n"


def config(file: Path | None, nodes: int = 2, levels: tuple[str, ...] = (), **placement: object) -> Config:
    topology = TopologyConfig(str(file) if file else None, list(levels))
    cluster = ClusterConfig(nodes=nodes, topology=topology)
    return Config(cluster=cluster, placement=PlacementConfig(**placement))  # type: ignore[arg-type]


def tree(made: Config) -> Tree | None:
    return tree_of_said(made, said_of_file(made))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "where.yaml"
    path.write_text(TWO)
    return path


def test_a_file_is_a_tree_and_none_is_none(file: Path) -> None:
    found = tree(config(file))
    assert found is not None
    assert found.crossed(["a", "b"]) == {"block": 1, "rack": 2}
    assert tree(config(None)) is None
    assert tree(config(file, topology=TopologyUse.off)) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no such file; give one that is there"),
        ("nodes: [", "cannot be read (it is not YAML"),
        (TWO, "names 2 nodes, and cluster.nodes=3; name the others too, or lower cluster.nodes"),
        (
            "nodes: {a: {hall: x}, b: {}, c: {}}",
            "none of its nodes has a label that is a level of the network",
        ),
        (
            TWO.replace("r2", "r1").replace("b1, rack: r1", "b2, rack: r1", 1) + "  c: {}\n",
            "rack 'r1' is in block",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_file_s_name(
    text: str | None, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "where.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        tree(config(path, nodes=3))
    assert str(refused.value).startswith(f"cluster.topology.file={path}: ")
    assert why in str(refused.value)


def test_a_level_is_one_of_the_file_s_and_goes_with_required(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"placement.level=row: is none of the levels of .* \(block, rack\)"
    ):
        tree(config(file, topology=TopologyUse.required, level="row"))
    with pytest.raises(ConfigError, match=r"placement.level=rack: is read where a domain of it is required"):
        tree(config(file, level="rack"))
