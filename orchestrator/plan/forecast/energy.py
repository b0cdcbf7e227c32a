"""Power and energy of a run: what its nodes may draw at once, what they draw at work, and the site's
limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.config.schema import ClusterConfig, GpuConfig
from orchestrator.errors import ConfigError

# A whole node over its accelerators' thermal design power: 10.2 kW for 8 x 700 W (NVIDIA DGX H100 datasheet).
# The same ratio is 2.03 for the DGX A100 (6.5 kW for 8 x 400 W) and 1.79 for the DGX B200 (14.3 kW, 8 x 1,000
# W).
NODE_SHARE = 10_200 / (8 * 700)
# The most that a node of eight H100 drew in training, 8.4 kW of the 10.2 kW that it is rated for (Latif et
# al., "Single-Node Power Demand During AI Training", IEEE Access 13, 2025, arXiv 2412.08602): high for a
# mean.
WORK_SHARE = 8_400 / 10_200


@dataclass(frozen=True)
class Energy:
    """`peak_power_w` is what the nodes may draw at most, `mean_power_w` what they draw in training, both with
    PUE. `energy_kwh` is None where the hours are not known, `site_limit_w` where there is no limit. `basis`
    says in one line what the figures rest on."""

    peak_power_w: float  # what the nodes may draw at most, PUE included
    mean_power_w: float  # what they draw in training, PUE included
    energy_kwh: float | None  # of the whole run; null where its hours are not known
    site_limit_w: float | None  # `cluster.power_limit_w`; null where there is no limit
    basis: str  # what the figures rest on, in one line
    pue: float  # power usage effectiveness of the building, which all of them have in them


def energy_of(cluster: ClusterConfig, gpu: GpuConfig, gpus: int, hours: float | None) -> Energy | None:
    """Power and energy of `gpus` accelerators allocated for `hours`, restarts and waiting included.

    The peak counts whole nodes; the mean counts the share of a node that the run has, at `WORK_SHARE` of its
    rating. Where `cluster.node_power_w` is null a node is estimated at its accelerators' `gpu.tdp_w` times
    `NODE_SHARE`. None where neither is known, as on CPU cores.

    Raises ConfigError when the peak is above `cluster.power_limit_w`, or the limit cannot be checked.
    """
    _check_grid(cluster)
    limit_w = cluster.power_limit_w
    node_w, source = _node_power_w(cluster, gpu)
    if node_w is None:
        if limit_w is not None:
            raise ConfigError(
                f"cluster.power_limit_w={limit_w:g} cannot be checked: neither cluster.node_power_w nor"
                f" gpu.tdp_w of {gpu.name} is known; set cluster.node_power_w=<watts of one node>, or"
                " power_limit_w=null"
            )
        return None
    nodes = math.ceil(gpus / cluster.gpus_per_node)
    peak_w = nodes * node_w * cluster.pue
    if limit_w is not None and peak_w > limit_w:
        raise ConfigError(_too_much(nodes, node_w * cluster.pue, peak_w, limit_w))
    mean_w = gpus / cluster.gpus_per_node * node_w * cluster.pue * WORK_SHARE
    return Energy(
        peak_power_w=peak_w,
        mean_power_w=mean_w,
        energy_kwh=None if hours is None else mean_w / 1000.0 * hours,
        site_limit_w=limit_w,
        basis=(
            f"{node_w:,.0f} W a node ({source}), PUE {cluster.pue:g}, {WORK_SHARE:.0%} of it in training "
            "(arXiv 2412.08602)"
        ),
        pue=cluster.pue,
    )


def _check_grid(cluster: ClusterConfig) -> None:
    if cluster.grid_gco2_per_kwh is not None and not cluster.grid_source:
        raise ConfigError(
            f"cluster.grid_gco2_per_kwh={cluster.grid_gco2_per_kwh:g} has no source: nothing is assumed of"
            " a grid; set cluster.grid_source=…, who says so and of which year"
        )


def _node_power_w(cluster: ClusterConfig, gpu: GpuConfig) -> tuple[float | None, str]:
    """Watts of one node at most and where they come from; None where nothing is known."""
    if cluster.node_power_w is not None:
        return cluster.node_power_w, "cluster.node_power_w"
    if gpu.tdp_w is None:
        return None, ""
    estimate_w = cluster.gpus_per_node * gpu.tdp_w * NODE_SHARE
    return (
        estimate_w,
        f"estimate: {cluster.gpus_per_node} x {gpu.tdp_w:g} W x {NODE_SHARE:.2f}, as a DGX H100 has it",
    )


def _too_much(nodes: int, each_w: float, peak_w: float, limit_w: float) -> str:
    fit = math.floor(limit_w / each_w)
    remedy = f"{fit} fit: set cluster.nodes={fit}" if fit else "not even one fits: choose smaller nodes"
    return (
        f"cluster.power_limit_w={limit_w:g} W is less than the {peak_w:g} W that cluster.nodes={nodes} draw"
        f" at most ({each_w:g} W each with PUE); {remedy}, or raise the limit"
    )
