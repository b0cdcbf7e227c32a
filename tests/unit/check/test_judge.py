"""Figures of made-up nodes, and what is said of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from orchestrator.check.cost import Spent, lost_share, priced
from orchestrator.check.findings import Finding, Grave, in_words
from orchestrator.check.judge import Expected, judge, judge_paths
from orchestrator.check.reports import Figure, NodeReport, What, decode, encode
from orchestrator.check.rounds import Paths
from orchestrator.config.check_schema import CheckConfig

LIMITS = CheckConfig()
H100 = Expected(True, 792e12, 3.35e12, 340e9)
FACTS = {"package torch": "2.13.0", "driver": "550.1"}


def healthy(name: str, seed: int = 0) -> NodeReport:
    """Eight GPUs as measured on any good day."""
    scatter = random.Random(f"{name} {seed}")
    gpus = range(8)
    figures = [
        *(Figure(What.MATMUL, 780e12 * scatter.uniform(0.96, 1), gpu) for gpu in gpus),
        *(Figure(What.MEMORY, 3.0e12 * scatter.uniform(0.97, 1), gpu) for gpu in gpus),
        *(Figure(What.ECC, 0.0, gpu) for gpu in gpus),
        *(Figure(What.PCIE, 1.0, gpu) for gpu in gpus),
        Figure(What.ALL_REDUCE, 400e9 * scatter.uniform(0.95, 1)),
        Figure(What.DISK, 1e9 * scatter.uniform(0.6, 1), device="/scratch"),
        Figure(What.DISK_ROOM, 1e12),
        Figure(What.SHM_ROOM, 1e12),
        Figure(What.CLOCK, scatter.uniform(-0.01, 0.01)),
        Figure(What.THROTTLED, 0.0),
    ]
    return NodeReport(name, tuple(figures), dict(FACTS))


def cluster(nodes: int = 6) -> list[NodeReport]:
    return [healthy(f"node-{number}") for number in range(nodes)]


def with_figure(report: NodeReport, what: What, value: float, gpu: int | None = None) -> NodeReport:
    others = tuple(one for one in report.figures if (one.what, one.gpu) != (what, gpu))
    return replace(report, figures=(*others, Figure(what, value, gpu)))


def test_a_cluster_that_is_well_has_no_findings() -> None:
    for nodes in (1, 2, 3, 64):
        assert judge(cluster(nodes), LIMITS, H100) == []


@pytest.mark.parametrize(
    ("what", "value", "gpu", "grave"),
    [
        (What.MATMUL, 500e12, 3, Grave.BAD),
        (What.MEMORY, 2.0e12, 7, Grave.BAD),
        (What.ALL_REDUCE, 100e9, None, Grave.BAD),
        (What.DISK, 5e6, None, Grave.ODD),
        (What.DISK_ROOM, 1e6, None, Grave.BAD),
        (What.SHM_ROOM, 1e6, None, Grave.ODD),
        (What.CLOCK, -4.0, None, Grave.ODD),
        (What.THROTTLED, 0.9, None, Grave.BAD),
        (What.ECC, 2.0, 1, Grave.BAD),
        (What.XID, 79.0, 5, Grave.BAD),
        (What.REMAPS, 1.0, 5, Grave.BAD),
        (What.PCIE, 0.5, 2, Grave.BAD),
        (What.THERMAL, 1.0, 2, Grave.BAD),
        (What.LINK_DOWNS, 40.0, None, Grave.ODD),
        (What.NVLINK, 900.0, 6, Grave.ODD),
    ],
)
def test_one_bad_figure_is_named_with_node_and_gpu(
    what: What, value: float, gpu: int | None, grave: Grave
) -> None:
    nodes = cluster()
    nodes[4] = with_figure(nodes[4], what, value, gpu)
    found = judge(nodes, LIMITS, H100)
    assert {(one.node, one.what, one.gpu, one.grave, one.measured) for one in found} == {
        ("node-4", what, gpu, grave, value)
    }


def test_without_published_figures_the_median_of_the_others_decides() -> None:
    nodes = cluster()
    nodes[0] = with_figure(nodes[0], What.MATMUL, 300e12, 2)
    (one,) = judge(nodes, LIMITS, Expected(gpu=True))
    assert (one.node, one.gpu, one.against) == ("node-0", 2, "the cluster's median")


def test_a_cluster_that_is_slow_as_a_whole_is_seen_by_what_is_published() -> None:
    nodes = [with_figure(node, What.MATMUL, 400e12, gpu) for node in cluster(1) for gpu in [0]]
    (one,) = judge(nodes, LIMITS, H100)
    assert (one.expected, one.against) == (792e12, "the best that is published")


def test_versions_of_the_minority_are_named_and_without_a_majority_all() -> None:
    nodes = cluster(3)
    nodes[1] = replace(nodes[1], facts={**FACTS, "driver": "535.9"})
    (one,) = judge(nodes, LIMITS, H100)
    assert (one.node, one.what) == ("node-1", What.VERSIONS)
    assert "driver is 535.9, on others 550.1" in one.detail
    assert [found.node for found in judge(nodes[:2], LIMITS, H100)] == ["node-0", "node-1"]


def test_a_slow_cable_names_its_node() -> None:
    paths = Paths(1e9, slow_nodes={2: 1e8}, pairs={(0, 2): 1e8, (0, 1): 1e9})
    (one,) = judge_paths(paths, ["a", "b", "c"], None)
    assert (one.node, one.nodes, one.link) == ("c", ("c",), "all of c")


def test_a_slow_link_names_both_ends() -> None:
    paths = Paths(1e9, slow_links={(0, 2): 1e8}, pairs={(0, 2): 1e8, (0, 1): 1e9, (1, 2): 1e9})
    (one,) = judge_paths(paths, ["a", "b", "c"], None)
    assert one.nodes == ("a", "c")
    assert "what is between them" in one.detail


def test_a_report_travels_as_plain_values() -> None:
    report = replace(healthy("a"), failed=((What.DISK, "read-only"),))
    assert decode(encode(report)) == report


def test_what_it_costs_follows_from_the_part_of_the_step_that_is_slowed() -> None:
    assert lost_share(0.5, 1.0) == pytest.approx(0.5)
    assert lost_share(0.5, 0.5) == pytest.approx(1 / 3)
    assert lost_share(1.0, 0.7) == 0.0
    assert lost_share(0.0, 0.1) == 1.0
    slow = Finding("a", What.MATMUL, Grave.BAD, 396e12, 792e12, "")
    (one,) = priced([slow], Spent(41_000.0, matmul_share=0.5))
    assert one.lost_usd == pytest.approx(41_000 / 3)
    (one,) = priced([replace(slow, what=What.CLOCK)], Spent(41_000.0))
    assert (one.lost_share, one.lost_usd) == (None, None)


def test_figures_are_read_with_their_units() -> None:
    assert in_words(What.MATMUL, 792e12) == "792 TFLOP/s"
    assert in_words(What.EXCHANGE, 42.5e9) == "42.5 GB/s"
    assert in_words(What.CLOCK, -1.5) == "-1.50 s"
    assert in_words(What.THROTTLED, 0.5) == "50.0%"
    assert in_words(What.XID, 79.0) == "79"
    assert in_words(What.ANSWER, None) == ""
