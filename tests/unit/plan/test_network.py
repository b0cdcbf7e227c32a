"""Collectives against published bus bandwidths, and what holds for every group."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.plan.perf.collectives import Group, Network, group_of
from orchestrator.plan.perf.machine import PCIE_BYTES_PER_S, Machine
from tests.support.planned_machines import CLUSTERS, constants, machine
from tests.unit.config.test_conf import composed

GIB = 2**30
clusters = st.sampled_from(CLUSTERS)
sizes = st.floats(0, 1e12)
groups = st.builds(
    lambda nodes, per_node: Group(nodes * per_node, per_node),
    st.integers(1, 64),
    st.sampled_from([1, 2, 4, 8]),
)


def network(cluster: str = "dgx_h100") -> Network:
    return Network(machine(cluster), constants())


# Bus bandwidth in GB/s: NVIDIA GTC slides and measurements in stas00/ml-engineering network/README.md (rings,
# no NVLS or SHARP), microsoft/mscclpp docs/performance-ndmv4.md (NCCL 2.17.1), dstack docs (Google Cloud).
PUBLISHED = [
    ("dgx_a100", "all_reduce", 1, 8, 16, 232),
    ("azure_nd_a100_v4", "all_reduce", 1, 8, 1, 231.45),
    ("azure_nd_a100_v4", "all_reduce", 2, 8, 1, 183.82),
    ("azure_nd_a100_v4", "all_reduce", 2, 8, 4, 188.18),
    ("azure_nd_a100_v4", "all_gather", 2, 8, 1, 177.05),
    ("azure_nd_a100_v4", "all_gather", 2, 8, 4, 186.01),
    ("azure_nd_a100_v4", "all_to_all", 2, 8, 4, 37.8),
    ("dgx_a100", "all_reduce", 16, 8, 16, 192),
    ("dgx_h100", "all_reduce", 1, 8, 16, 370),
    ("dgx_h100", "all_reduce", 4, 8, 16, 370),
    ("aws_p5en", "all_reduce", 4, 8, 4, 364.9),
    ("dgx_b200", "all_reduce", 1, 8, 16, 700),
    ("gcp_a3_mega", "all_gather", 2, 8, 8, 188.5),
    ("gcp_a3_high", "all_gather", 2, 8, 8, 50.2),
]


@pytest.mark.parametrize(("cluster", "collective", "nodes", "per_node", "gib", "gb_per_s"), PUBLISHED)
def test_bus_bandwidths_are_the_published_ones(
    cluster: str, collective: str, nodes: int, per_node: int, gib: int, gb_per_s: float
) -> None:
    """Bus bandwidth as nccl-tests print it: what each rank moves, over the time."""
    group, size_bytes = Group(nodes * per_node, per_node), gib * GIB
    moved = size_bytes * (group.ranks - 1) / group.ranks
    times = network(cluster)
    seconds, moves = {
        "all_reduce": (times.all_reduce_s(size_bytes, group), 2),
        "all_gather": (times.gather_s(size_bytes, group), 1),
        "all_to_all": (times.all_to_all_s(size_bytes, group), 1),
    }[collective]
    assert moves * moved / seconds / 1e9 == pytest.approx(gb_per_s, rel=0.15)


@given(clusters, sizes)
def test_one_rank_has_nobody_to_wait_for(cluster: str, size_bytes: float) -> None:
    times, alone = network(cluster), Group(1, 1)
    assert times.gather_s(size_bytes, alone) == times.all_reduce_s(size_bytes, alone) == 0
    assert times.all_to_all_s(size_bytes, alone) == 0


@given(clusters, groups, sizes, st.floats(1, 1e12))
def test_more_bytes_take_longer_and_nothing_less_than_the_latency(
    cluster: str, group: Group, size_bytes: float, more_bytes: float
) -> None:
    times = network(cluster)
    whole, twice = times.all_reduce_s(size_bytes, group), 2 * times.gather_s(size_bytes, group)
    assert whole == pytest.approx(twice) if group.nodes == 1 else whole <= twice * (1 + 1e-9)
    for collective in (times.gather_s, times.all_reduce_s, times.all_to_all_s):
        if group.ranks > 1:
            assert 0 < collective(0.0, group) <= collective(size_bytes, group)
            assert collective(size_bytes, group) < collective(
                size_bytes + more_bytes + size_bytes * 1e-6, group
            )


@example(Group(2, 2), 0.0, 2)
@given(groups, sizes, st.integers(2, 16))
def test_a_rank_moves_more_in_a_larger_group(group: Group, size_bytes: float, times_larger: int) -> None:
    times, larger = network(), Group(times_larger * group.ranks, group.per_node)
    assert times.gather_s(size_bytes, group) <= times.gather_s(size_bytes, larger)
    assert times.all_to_all_s(size_bytes, group) <= times.all_to_all_s(size_bytes, larger)


@given(groups, st.floats(1, 1e12), st.floats(1.1, 10))
def test_a_slower_fabric_slows_groups_over_several_nodes_alone(
    group: Group, size_bytes: float, slower: float
) -> None:
    fast = machine()
    slow = replace(fast, node_bytes_per_s=fast.node_bytes_per_s / slower, fabric_latency_s=1e-3)
    before, after = Network(fast, constants()), Network(slow, constants())
    for here, there in ((before.gather_s, after.gather_s), (before.all_to_all_s, after.all_to_all_s)):
        if group.nodes == 1:
            assert here(size_bytes, group) == there(size_bytes, group)
        else:
            assert here(size_bytes, group) < there(size_bytes, group)
    assert before.send_s(size_bytes, False) == after.send_s(size_bytes, False)
    assert before.send_s(size_bytes, True) < after.send_s(size_bytes, True)


@given(groups, st.floats(1, 1e12))
def test_faster_links_help_within_a_node_and_never_harm(group: Group, size_bytes: float) -> None:
    slow = machine()
    fast = replace(slow, link_bytes_per_s=10 * slow.link_bytes_per_s)
    before, after = Network(slow, constants()), Network(fast, constants())
    assert after.gather_s(size_bytes, group) <= before.gather_s(size_bytes, group)
    if group.nodes == 1 < group.ranks:
        assert after.gather_s(size_bytes, group) < before.gather_s(size_bytes, group)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_groups_side_by_side_share_the_nodes_nics(cluster: str) -> None:
    """Eight groups with one rank on each node have an eighth of the NICs each, two with four have half."""
    times, nics = network(cluster), machine(cluster).node_bytes_per_s * machine(cluster).fabric_efficiency
    for per_node in (1, 2, 4):
        assert times.bandwidth_bytes_per_s(Group(4 * per_node, per_node)) == pytest.approx(
            nics * per_node / 8
        )
    assert times.bandwidth_bytes_per_s(Group(32, 8)) == pytest.approx(
        min(nics, times.bandwidth_bytes_per_s(Group(8, 8)))
    )


@given(st.integers(1, 512), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2, 4, 8]))
def test_ranks_far_apart_are_on_more_nodes(ranks: int, stride: int, gpus_per_node: int) -> None:
    group = group_of(ranks, stride, gpus_per_node)
    assert group.ranks == ranks
    assert 1 <= group.per_node <= gpus_per_node
    # Ranks 0, stride, 2 stride, ... by the number of their node.
    assert group.nodes == len({rank * stride // gpus_per_node for rank in range(ranks)})


def test_a_gpu_without_nvlink_has_pcie_and_a_cluster_without_nics_the_hosts_link() -> None:
    config = composed("cluster=dgx_h100", "gpu=other_nvidia")
    config.gpu.nvlink_bytes_per_s = None
    config.cluster.nics_per_node = 0
    bare = Machine.of(config.cluster, config.gpu, config.fabric)
    assert bare.link_bytes_per_s == PCIE_BYTES_PER_S
    times = Network(bare, constants())
    assert times.bandwidth_bytes_per_s(Group(16, 8)) == min(
        times.bandwidth_bytes_per_s(Group(8, 8)), bare.host_link_bytes_per_s
    )
    assert times.all_to_all_s(1e9, Group(16, 8)) > 1e9 / bare.host_link_bytes_per_s


@given(clusters, st.integers(1, 10))
def test_a_ring_waits_for_every_rank_and_a_tree_for_its_depth(cluster: str, doublings: int) -> None:
    times, per_node = network(cluster), 8
    nodes = 2**doublings
    here, twice = Group(nodes * per_node, per_node), Group(2 * nodes * per_node, per_node)
    assert times.gather_s(0, twice) >= 2 * times.gather_s(0, here)
    deeper = times.all_reduce_s(0, twice) - times.all_reduce_s(0, here)
    assert 0 <= deeper <= times.gather_s(0, Group(3, 1)) * (1 + 1e-9)


def test_more_calls_wait_more_often_and_move_the_same() -> None:
    times, group = network("dgx_h100"), Group(64, 8)
    once, often = times.gather_s(1e9, group), times.gather_s(1e9, group, calls=5)
    assert often - once == pytest.approx(4 * times.gather_s(0, group))


def test_a_token_goes_to_each_node_once_where_its_router_keeps_it_on_few() -> None:
    """DeepSeek-V3 on eight nodes: eight copies on four nodes at most, so that half of them need no adapter."""
    on, group = network("deepseek_h800"), Group(64, 8)
    all_of_them = on.dispatch_s(GIB, 8, None, group)
    assert all_of_them == on.all_to_all_s(8 * GIB, group)
    few = on.dispatch_s(GIB, 8, 4, group)
    assert few == pytest.approx(all_of_them / 2, rel=0.1)
    assert on.dispatch_s(GIB, 8, 2, group) < few
    # never more nodes than there are, or copies
    assert on.dispatch_s(GIB, 2, 4, group) == pytest.approx(on.dispatch_s(GIB, 2, 2, group))
    near = Group(8, 8)
    assert on.dispatch_s(GIB, 8, 4, near) == on.all_to_all_s(8 * GIB, near)


def test_a_token_on_one_node_waits_for_the_links_that_carry_all_its_copies() -> None:
    on = network("deepseek_h800")
    link = machine("deepseek_h800").link_bytes_per_s * constants().link_efficiency
    assert on.dispatch_s(GIB, 64, 1, Group(64, 8)) == pytest.approx(GIB * 64 * 7 / 8 / link, rel=0.01)
