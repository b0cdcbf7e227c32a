"""Every file of conf/ fits the schema and says where its numbers come from."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from omegaconf import OmegaConf

from orchestrator.config import load as schema
from orchestrator.config import published_runs
from orchestrator.config.hardware import LocalGpu
from orchestrator.config.schema import (
    Device,
    FabricConfig,
    GpuConfig,
    ModelConfig,
    PlannerConfig,
    PriceKind,
    RecoveryConfig,
)
from orchestrator.plan.forecast.energy import NODE_SHARE, WORK_SHARE
from orchestrator.plan.forecast.price import offers, price_usd_per_gpu_hour
from orchestrator.plan.perf.transformer import parameters
from tests.support.compositions import config_of

CONF = schema.conf_dir()


def options(group: str) -> list[str]:
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert names, f"conf/{group} is empty"
    return names


def loaded(group: str, option: str, kind: type[Any]) -> Any:
    """One file of a group as its dataclass, beside the planner's constants, without Hydra."""
    schema.register()
    root = OmegaConf.create({"planner": OmegaConf.load(CONF / "planner" / "default.yaml")})
    root[group] = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.load(CONF / group / f"{option}.yaml"))
    made = OmegaConf.to_object(root[group])
    if isinstance(made, PlannerConfig):
        published_runs.fill(made, CONF / group)
    return made


composed = config_of


@pytest.mark.parametrize("option", options("gpu"))
def test_gpu_has_sources_dense_peaks_and_a_price(option: str) -> None:
    gpu = loaded("gpu", option, GpuConfig)
    assert gpu.source
    assert gpu.reference_price.source
    assert gpu.reference_price.as_of
    if option != "other_nvidia":
        assert gpu.memory_bytes >= 2**30
        assert gpu.peak_flops["fp32"] > 0
        assert 0 < price_usd_per_gpu_hour(gpu.reference_price, gpu).usd_per_gpu_hour < 20
    if gpu.device is Device.cuda and option != "other_nvidia":
        peaks = gpu.peak_flops
        assert peaks["bf16"] == peaks["fp16"]
        assert peaks["bf16"] == pytest.approx(2 * peaks["tf32"], rel=0.01)
        assert peaks.get("fp8", 2 * peaks["bf16"]) == pytest.approx(2 * peaks["bf16"], rel=0.01)
        assert gpu.product_names


@pytest.mark.parametrize("option", options("gpu"))
def test_a_gpu_on_record_has_all_that_a_step_time_needs(option: str) -> None:
    """Others have no efficiency, so that no time is predicted for them before a calibration."""
    gpu, planner = loaded("gpu", option, GpuConfig), loaded("planner", "default", PlannerConfig)
    if option in ("cpu", "other_nvidia"):
        assert gpu.matmul_efficiency == {}
        return
    assert gpu.matmul_efficiency == planner.matmul_efficiency[gpu.architecture]
    assert {"bf16", "fp16", "fp32"} <= gpu.matmul_efficiency.keys() & gpu.peak_flops.keys()
    assert gpu.matmul_efficiency.keys() <= {*gpu.peak_flops, "fp8"}
    assert 80 <= gpu.multiprocessors <= 304
    assert 1e12 < gpu.memory_bandwidth_bytes_per_s < 1e13
    assert 1e11 < gpu.nvlink_bytes_per_s < 2e12


@pytest.mark.parametrize("option", options("planner"))
def test_the_planners_constants_are_positive_and_shares_below_one(option: str) -> None:
    planner = loaded("planner", option, PlannerConfig)
    assert planner.fitted
    values = {name: value for name, value in vars(planner).items() if isinstance(value, int | float)}
    assert values.keys() == {
        name for name, kind in typing.get_type_hints(PlannerConfig).items() if kind is float
    }
    assert all(value > 0 for value in values.values())
    shares = [
        name for name in values if "efficiency" in name or "hidden_share" in name or name == "step_time_error"
    ]
    assert len(shares) == 7
    shares += ["attention_before_hopper", "contention"]
    assert [name for name in shares if values[name] >= 1] == []
    for efficiencies in planner.matmul_efficiency.values():
        assert all(0.3 < share < 0.95 for share in efficiencies.values())


def test_no_product_name_belongs_to_two_gpus() -> None:
    names = [
        name.lower() for option in options("gpu") for name in loaded("gpu", option, GpuConfig).product_names
    ]
    for name in names:
        assert [other for other in names if name in other] == [name]


@pytest.mark.parametrize("option", options("fabric"))
def test_fabric_values_are_usable_and_sourced(option: str) -> None:
    fabric = loaded("fabric", option, FabricConfig)
    assert fabric.name == option
    assert fabric.description
    for name, setting in fabric.environment.items():
        assert name == name.upper()
        assert setting.source
        assert setting.value
        assert "..." not in setting.value
        assert "<" not in setting.value
        assert name not in fabric.leave_unset
    assert all(fabric.leave_unset.values())


@pytest.mark.parametrize("option", options("fabric"))
def test_a_fabric_has_a_measured_efficiency_or_the_default(option: str) -> None:
    fabric = loaded("fabric", option, FabricConfig)
    if fabric.efficiency_source:
        assert 0 < fabric.efficiency <= 0.95
    else:
        assert fabric.efficiency == FabricConfig.efficiency


@pytest.mark.parametrize("option", options("cluster"))
def test_prices_of_a_cluster_are_sourced_and_in_order_and_its_power_is_one(option: str) -> None:
    config = composed(f"cluster={option}")
    usd = {}
    for offer in offers(config.cluster.price, config.gpu):
        assert "no source given" not in offer.source
        usd[offer.kind] = offer.usd_per_gpu_hour
    # Google sells these nodes on spot alone: the other price is another provider's.
    if PriceKind.spot in usd and option != "gcp_a4":
        assert usd[PriceKind.spot] < usd.get(PriceKind.reserved, usd[PriceKind.list]) < 20
        assert usd.get(PriceKind.reserved, 0) < usd[PriceKind.list]
    cluster, price = config.cluster, config.cluster.price
    assert (price.kind is PriceKind.owned) == (cluster.node_power_w is not None)
    if cluster.node_power_w is not None:
        # at work, as the plan's energy has it
        at_work_w = WORK_SHARE * cluster.node_power_w / cluster.gpus_per_node
        assert price.power_w_per_gpu == pytest.approx(at_work_w, rel=1e-3)
        assert price.pue == cluster.pue
        assert config.gpu.tdp_w is not None
        estimate_w = NODE_SHARE * cluster.gpus_per_node * config.gpu.tdp_w
        assert cluster.node_power_w == pytest.approx(estimate_w, rel=0.12)


@pytest.mark.parametrize("option", options("fabric"))
def test_gloo_uses_the_interface_that_nccl_uses(option: str) -> None:
    """gloo takes one exact name, NCCL prefixes or, after '=', an exact name: it must be good for both."""
    environment = loaded("fabric", option, FabricConfig).environment
    if "GLOO_SOCKET_IFNAME" in environment:
        assert environment["GLOO_SOCKET_IFNAME"].value == environment[
            "NCCL_SOCKET_IFNAME"
        ].value.removeprefix("=")


@pytest.mark.parametrize("option", options("model"))
def test_model_has_a_source_and_divisible_heads(option: str) -> None:
    model = loaded("model", option, ModelConfig)
    assert model.name == option
    assert model.source
    assert model.head_dim or model.hidden % (2 * model.heads) == 0
    assert model.heads % model.kv_heads == 0
    unprinted = ("gpt3_175b", "grok1_314b", "tiny_gpt")
    assert f"{parameters(model).total:,} parameters" in model.source or option in unprinted


def test_local_cluster_takes_the_price_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema.hardware, "local_gpus", list)
    config = composed()
    assert (config.cluster.name, config.gpu.name) == ("local", "CPU core")
    assert (config.cluster.nodes, config.cluster.gpus_per_node, config.cluster.cpu_threads_per_rank) == (
        1,
        2,
        1,
    )
    assert config.cluster.price == config.gpu.reference_price


def test_a_gpu_chosen_on_the_command_line_wins_over_the_cluster() -> None:
    assert composed("cluster=aws_p5", "gpu=h200").gpu.name.startswith("NVIDIA H200")


@pytest.mark.parametrize("option", options("deepspeed"))
def test_deepspeed_takes_its_batch_from_the_job(option: str) -> None:
    config = composed(f"deepspeed={option}", "job.global_batch=96", "job.micro_batch=3")
    assert config.deepspeed["train_batch_size"] == 96
    assert config.deepspeed["train_micro_batch_size_per_gpu"] == 3
    assert config.deepspeed["gradient_accumulation_steps"] is None
    assert config.deepspeed["zero_optimization"]["stage"] == int(option[4])
    assert not config.deepspeed.keys() & {"bf16", "fp16"}


@pytest.mark.parametrize("option", options("recovery"))
def test_recovery_fits_the_schema(option: str) -> None:
    assert (
        loaded("recovery", option, RecoveryConfig).max_restarts
        == {"default": 3, "spot": 1000, "strict": 0}[option]
    )


def test_tracking_is_optional_for_sqlite_and_required_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    server = composed("tracking=server").tracking
    assert (server.uri, server.required) == ("http://mlflow.example:5000", True)
    sqlite = composed("tracking=sqlite", "run_root=/data/runs").tracking
    assert (sqlite.uri, sqlite.required) == ("sqlite:////data/runs/mlflow.db", False)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, product: str) -> None:
    found = [LocalGpu(index, f"GPU-{index}", product, 85_000_000_000) for index in range(count)]
    monkeypatch.setattr(schema.hardware, "local_gpus", lambda: found)


@pytest.mark.parametrize(
    ("count", "product", "overrides", "expected"),
    [
        (0, "", [], ("CPU core", 2)),
        (8, "NVIDIA H100 80GB HBM3", [], ("NVIDIA H100 SXM 80GB", 8)),
        (1, "NVIDIA GeForce RTX 4090", [], ("NVIDIA GPU", 1)),
        (8, "NVIDIA H100 80GB HBM3", ["gpu=cpu"], ("CPU core", 2)),
        (8, "NVIDIA H100 80GB HBM3", ["cluster.gpus_per_node=4"], ("NVIDIA H100 SXM 80GB", 4)),
    ],
)
def test_the_local_cluster_is_what_this_machine_has(
    monkeypatch: pytest.MonkeyPatch, count: int, product: str, overrides: list[str], expected: tuple[str, int]
) -> None:
    gpus(monkeypatch, count, product)
    config = composed(*overrides)
    assert (config.gpu.name, config.cluster.gpus_per_node) == expected
    assert config.cluster.cpu_threads_per_rank >= 1
    price = price_usd_per_gpu_hour(config.cluster.price, config.gpu)
    assert price.usd_per_gpu_hour >= 0
