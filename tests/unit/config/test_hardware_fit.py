"""GPUs and counts that no node of a cluster has are refused, or named hypothetical with what was assumed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.config.load import hardware
from orchestrator.config.schema import Config, GpuConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan
from tests.unit.config.test_conf import composed, gpus, loaded, options

EIGHT_B = ("job=llama3_8b", "cluster=dgx_h100")
MADE_UP = "cluster.hypothetical=true"


@pytest.fixture(autouse=True)
def no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "local_gpus", list)


def planned(*words: str) -> Plan:
    return orc.make_plan(orc.compose(*words), observed=False)


@pytest.mark.parametrize("option", [name for name in options("cluster") if name != "local"])
def test_every_cluster_names_what_its_nodes_have(option: str) -> None:
    config = composed(f"cluster={option}")
    named = {loaded("gpu", gpu, GpuConfig).name: counts for gpu, counts in config.cluster.gpus.items()}
    assert config.cluster.gpus_per_node in named[config.gpu.name]


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (
            ("gpu=mi300x",),
            "gpu=mi300x: nodes of cluster=dgx_h100 (NVIDIA DGX H100) have 8 × h100_sxm; no cluster here has"
            f" that GPU; leave gpu out, or {MADE_UP} for a node that nobody sells",
        ),
        (("gpu=h200",), "choose a cluster that has it (cluster=dgx_h200 or cluster=aws_p5en or"),
        (("gpu=cpu",), "gpu=cpu: nodes of cluster=dgx_h100"),
        (
            ("cluster.gpus_per_node=16",),
            "cluster.gpus_per_node=16: nodes of cluster=dgx_h100 (NVIDIA DGX H100) have 8 × h100_sxm; use"
            f" cluster.gpus_per_node=8 with cluster.nodes=8, or {MADE_UP}",
        ),
    ],
)
def test_what_no_node_has_is_refused_with_what_to_type(words: tuple[str, ...], refusal: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(refusal)):
        orc.compose(*EIGHT_B, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("cluster=dgx_h100", "fabric=efa"),
            "fabric=efa: nodes of cluster=dgx_h100 (NVIDIA DGX H100) have the adapters of fabric=infiniband_ndr,"
            " and none for efa; leave it out, write fabric=ethernet for TCP sockets, choose a cluster"
            " that has it (cluster=aws_p4d or cluster=aws_p4de or cluster=aws_p5 or cluster=aws_p5en)",
        ),
        (("cluster=aws_p5", "fabric=gcp_gib"), "and none for gib; leave it out"),
        (
            ("cluster=gcp_a3_mega", "fabric.transport=tcpx"),
            "fabric.transport=tcpx: nodes of cluster=gcp_a3_mega",
        ),
    ],
)
def test_a_network_that_no_node_has_is_refused_with_what_to_type(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        orc.compose("job=llama3_8b", *words)


@pytest.mark.parametrize(
    "words",
    [("cluster=aws_p5", "fabric=ethernet"), ("cluster=dgx_h100", "fabric=roce"),
     ("cluster=aws_p4d", "fabric=efa")],
)  # fmt: skip
def test_a_network_that_nodes_may_have_is_planned_on(words: tuple[str, ...]) -> None:
    assert orc.compose("job=llama3_8b", *words).fabric.name == words[1].partition("=")[2]


def test_a_hypothetical_node_has_the_network_that_it_is_given() -> None:
    plan = planned(*EIGHT_B, "fabric=efa", MADE_UP)
    assert (plan.cluster, plan.price, plan.fabric) == ("hypothetical", None, "efa")


def test_what_a_program_sets_afterwards_is_looked_at_too() -> None:
    config = orc.compose(*EIGHT_B)
    config.cluster.gpus_per_node = 16
    with pytest.raises(ConfigError, match=r"cluster.gpus_per_node=16: nodes of cluster=dgx_h100"):
        orc.make_plan(config, observed=False)
    config.cluster.hypothetical = True
    assert orc.make_plan(config, observed=False).cluster == "hypothetical"


def test_a_hypothetical_node_has_no_vendors_name_power_or_price_and_says_what_is_assumed() -> None:
    real, plan = planned(*EIGHT_B), planned(*EIGHT_B, "cluster.gpus_per_node=16", MADE_UP)
    assert (plan.cluster, plan.node_type) == ("hypothetical", "hypothetical node")
    assert plan.layout.ranks == 2 * real.layout.ranks
    assert plan.price is None
    assert plan.prediction.costs == ()
    assert plan.prediction.energy is not None
    assert real.prediction.energy is not None
    # Sixteen GPUs draw twice as much as eight, by the GPUs' own power.
    ratio = plan.prediction.energy.peak_power_w / real.prediction.energy.peak_power_w
    assert ratio == pytest.approx(2.0, rel=0.01)
    assert plan.network is not None
    assert real.network is not None
    assert plan.network.bytes_per_s == pytest.approx(2 * real.network.bytes_per_s)
    assert "NCCL_IB_HCA" not in plan.environment, "those are the adapters of a node with eight"
    text = " ".join(str(plan).split())
    assert "price not known: nobody sells such a node" in text
    assert "16 NICs of 400 Gb/s as in NVIDIA DGX H100, 4.4 TB of host memory likewise" in text
    assert "NVIDIA DGX" not in text.partition("remarks")[0]


def test_a_price_that_is_given_is_the_only_one() -> None:
    given = planned(*EIGHT_B, "gpu=mi300x", MADE_UP, "cluster.price.usd_per_gpu_hour=2.5")
    assert given.price is not None
    assert given.price.usd_per_gpu_hour == 2.5
    assert [cost.kind for cost in given.prediction.costs] == ["list"]
    assert "SemiAnalysis" not in str(given)


def test_a_run_on_hardware_without_a_price_is_refused_before_it_starts() -> None:
    plan = planned(*EIGHT_B, "gpu=mi300x", MADE_UP)
    with pytest.raises(ConfigError, match=r"cluster\.price\.usd_per_gpu_hour=…"):
        _ = plan.billed_by


def test_a_layout_is_searched_on_a_hypothetical_node_too() -> None:
    plan = planned(*EIGHT_B, "gpu=mi300x", MADE_UP, "layout=auto")
    assert (plan.cluster, plan.gpu_type) == ("hypothetical", "AMD Instinct MI300X 192GB")


def test_what_a_cluster_has_is_not_made_up_by_asking_for_it() -> None:
    plan = planned(*EIGHT_B, MADE_UP)
    assert (plan.cluster, plan.remarks) == ("dgx_h100", planned(*EIGHT_B).remarks)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("h100_sxm", "to plan, name a cluster that has it: cluster=dgx_h100 or cluster=aws_p5"),
        ("mi300x", "no cluster here has that GPU; to plan all the same, cluster=… and cluster.hypothetical"),
    ],
)
def test_a_gpu_that_this_machine_has_not_is_refused_in_the_users_words(gpu: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"gpu={gpu}: this machine shows no GPU; {said}")):
        planned(f"gpu={gpu}")


def test_a_budget_for_some_gpu_looks_at_the_clusters_that_have_it() -> None:
    found = orc.plan_budget(orc.compose("gpu=h200"), usd=20_000)
    names = {option.config.cluster.name for option in found.options}
    assert names == {"aws_p5en", "azure_nd_h200_v5", "coreweave_h200", "nebius_h200"}
    assert "dgx_h200" not in found.left_out, "its machines are an owner's, and stand apart"
    assert found.left_out["dgx_h100"] == "nodes cannot have such GPUs, or so many"
    with pytest.raises(ConfigError, match="clusters can be planned on: nodes cannot have such"):
        orc.plan_budget(orc.compose("gpu=mi300x"), usd=20_000)


def test_this_machines_own_gpus_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 3, "NVIDIA H100 80GB HBM3")
    assert orc.compose().cluster.gpus_per_node == 3
    assert orc.compose("cluster.gpus_per_node=2").cluster.gpus_per_node == 2


def own(folder: Path, more: str = "") -> Config:
    (folder / "cluster").mkdir()
    (folder / "cluster" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /gpu: h200\n  - override /fabric: roce\n"
        "cluster:\n  name: mine\n  node_type: our nodes\n  nodes: 3\n  gpus_per_node: 5\n"
        "  nics_per_node: 5\n  nic_bits_per_s: 200.0e9\n" + more + "  price:\n"
        "    usd_per_gpu_hour: 2\n    source: our bill\n    as_of: today\n"
    )
    from orchestrator.cli import cli

    errors = io.StringIO()
    import contextlib

    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(
            ["plan", "--config-dir", str(folder), "job=llama3_8b", "cluster=mine", "job.global_batch=30"]
            + (["gpu=mi300x"] if more else [])
        )
    if code:
        raise ConfigError(errors.getvalue())
    return Config()


def test_a_cluster_of_ones_own_needs_no_list(tmp_path: Path) -> None:
    assert own(tmp_path)


def test_a_cluster_of_ones_own_may_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gpu=mi300x: nodes of cluster=mine"):
        own(tmp_path, "  gpus: {h200: [5]}\n")
