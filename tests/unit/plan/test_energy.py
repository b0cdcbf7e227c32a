"""Power and energy by hand, the site's limit, and what holds for every cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import ClusterConfig, GpuConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.energy import Energy, energy_of

GPU = GpuConfig(name="H100", tdp_w=700)
CORE = GpuConfig(name="CPU core", tdp_w=None)
DGX = ClusterConfig(name="dgx", node_type="DGX H100", nodes=4, gpus_per_node=8, node_power_w=10_200, pue=1.5)


def energy(cluster: ClusterConfig, gpus: int, hours: float | None = 1.0, gpu: GpuConfig = GPU) -> Energy:
    found = energy_of(cluster, gpu, gpus, hours)
    assert found is not None
    return found


def test_four_nodes_for_ten_hours_by_hand() -> None:
    """4 x 10.2 kW x 1.5 = 61.2 kW at most; 4 x 8.4 kW x 1.5 = 50.4 kW in training, 504 kWh in ten hours."""
    found = energy(replace(DGX, power_limit_w=62_000), 32, 10)
    assert found.peak_power_w == pytest.approx(61_200)
    assert found.mean_power_w == pytest.approx(50_400)
    assert found.energy_kwh == pytest.approx(504)
    assert found.site_limit_w == 62_000
    assert "10,200 W a node (cluster.node_power_w), PUE 1.5" in found.basis


def test_a_node_is_estimated_from_its_accelerators() -> None:
    estimated = energy(replace(DGX, node_power_w=None), 32)
    assert estimated.peak_power_w == pytest.approx(energy(DGX, 32).peak_power_w)
    assert "estimate: 8 x 700 W x 1.82" in estimated.basis
    assert energy(
        replace(DGX, node_power_w=None), 32, gpu=replace(GPU, tdp_w=350)
    ).peak_power_w == pytest.approx(30_600)


def test_a_started_node_counts_whole_at_the_peak_only() -> None:
    part, whole = energy(DGX, 4), energy(DGX, 8)
    assert part.peak_power_w == whole.peak_power_w
    assert part.mean_power_w == pytest.approx(whole.mean_power_w / 2)


def test_unknown_power_is_none_and_unknown_hours_leave_the_energy_out() -> None:
    assert energy_of(replace(DGX, node_power_w=None), CORE, 2, 1.0) is None
    assert energy_of(DGX, CORE, 8, None) == energy_of(DGX, GPU, 8, None)
    assert energy(DGX, 8, None).energy_kwh is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"power_limit_w": 50_000.0},
            (
                r"cluster\.power_limit_w=50000 W is less than the 61200 W.*cluster\.nodes=4.* 3 fit: set"
                r" cluster\.nodes=3"
            ),
        ),
        ({"power_limit_w": 15_000.0}, r"power_limit_w=15000 .* not even one fits"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        energy_of(replace(DGX, **change), GPU, 32, 1.0)


def test_a_limit_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"power_limit_w=1000 cannot be checked.*set cluster\.node_power_w"):
        energy_of(replace(DGX, node_power_w=None, power_limit_w=1000), CORE, 2, 1.0)


@given(
    gpus=st.integers(1, 10_000),
    per_node=st.integers(1, 16),
    node_w=st.none() | st.floats(100, 20_000),
    pue=st.floats(1, 3),
    hours=st.floats(0, 10_000),
)
def test_mean_is_below_peak_and_all_grows_with_gpus_and_pue(
    gpus: int, per_node: int, node_w: float | None, pue: float, hours: float
) -> None:
    cluster = replace(DGX, gpus_per_node=per_node, node_power_w=node_w, pue=pue)
    one, more = energy(cluster, gpus, hours), energy(cluster, gpus + 1, hours)
    assert 0 < one.mean_power_w < one.peak_power_w <= more.peak_power_w
    assert one.mean_power_w < more.mean_power_w
    assert one.energy_kwh == pytest.approx(one.mean_power_w * hours / 1000)
    dearer = energy(replace(cluster, pue=pue * 1.1), gpus, hours)
    assert dearer.peak_power_w == pytest.approx(1.1 * one.peak_power_w)


@given(gpus=st.integers(1, 1000), limit_w=st.floats(1_000, 1e7))
def test_as_many_nodes_fit_as_the_refusal_says(gpus: int, limit_w: float) -> None:
    cluster = replace(DGX, power_limit_w=limit_w)
    fit = int(limit_w // (10_200 * 1.5))
    if -(-gpus // 8) <= fit:
        assert energy(cluster, gpus).peak_power_w <= limit_w
    else:
        with pytest.raises(
            ConfigError, match=f" {fit} fit: set cluster.nodes={fit}," if fit else "not even one"
        ):
            energy_of(cluster, GPU, gpus, 1.0)
