"""Every option of conf/ makes a plan, and plans say what the published figures say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.schema import Config, FabricConfig, ModelConfig, PriceKind
from orchestrator.driver.preflight import check_script_builds
from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.price import price_usd_per_gpu_hour
from orchestrator.plan.plan import Plan, make_plan
from tests.unit.config.test_conf import composed, gpus, loaded, options

# Gb/s of one node's compute network as its provider publishes them; of Google's A3, without the host's NIC.
PUBLISHED_GBIT_PER_S = {
    "aws_p4d": 400, "aws_p4de": 400, "aws_p5": 3200, "aws_p5en": 3200,
    "azure_nd_a100_v4": 1600, "azure_nd_h100_v5": 3200, "azure_nd_h200_v5": 3200,
    "coreweave_b200": 3200, "coreweave_h100": 3200, "coreweave_h200": 3200, "deepseek_h800": 3200,
    "dgx_a100": 1600, "dgx_b200": 3200, "dgx_h100": 3200, "dgx_h200": 3200,
    "gcp_a3_high": 800, "gcp_a3_mega": 1600, "gcp_a4": 3200, "lambda_b200": 3200, "lambda_h100": 3200,
    "nebius_b200": 3200, "nebius_h100": 3200, "nebius_h200": 3200,
}  # fmt: skip


@pytest.mark.parametrize("option", [name for name in options("cluster") if name != "local"])
def test_cluster_plans_with_its_gpu_fabric_and_price(option: str) -> None:
    size = ["layout.recompute=true", "job.global_batch=128"]
    config = composed(f"cluster={option}", "job=pretrain", "model=llama2_7b", "deepspeed=zero3", *size)
    assert_plans(make_plan(config, "/job.py", "/", {}))
    assert config.cluster.name == option
    assert config.cluster.source
    assert config.cluster.price.as_of
    assert config.fabric.name != "loopback"
    assert config.cluster.nics_per_node * config.cluster.nic_bits_per_s == PUBLISHED_GBIT_PER_S[option] * 1e9
    assert 0.5 < price_usd_per_gpu_hour(config.cluster.price, config.gpu).usd_per_gpu_hour < 20
    if config.cluster.price.kind is PriceKind.owned:
        assert config.cluster.price.source.startswith("estimate: ")
    if "for 8 GPUs" in config.cluster.price.source and config.cluster.price.kind is PriceKind.list:
        usd_per_node_hour = re.findall(r"([\d.]+) USD/h for 8 GPUs", config.cluster.price.source)
        assert float(usd_per_node_hour[0]) == pytest.approx(
            8 * (config.cluster.price.usd_per_gpu_hour or 0), rel=1e-6
        )


def test_a_cluster_without_a_price_of_its_own_names_the_provider_whose_it_is() -> None:
    config = composed("cluster=gcp_a4")
    assert config.cluster.price.usd_per_gpu_hour == config.gpu.reference_price.usd_per_gpu_hour
    assert config.cluster.price.source.startswith("Google lists no on-demand price")
    assert config.gpu.reference_price.source in config.cluster.price.source


@pytest.mark.parametrize("option", options("experiment"))
def test_experiment_plans(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    gpus(monkeypatch, 2, "NVIDIA H100 80GB HBM3")
    config = composed(f"experiment={option}")
    plan = make_plan(config, "/job.py", "/", {})
    assert_plans(plan)
    assert config.job.steps
    assert plan.layout.global_batch
    assert Path(config.job.script).suffix == ".py"


def planned(*overrides: str) -> Plan:
    return make_plan(composed(*overrides), "/job.py", "/", {})


def options_together(*groups: str) -> list[tuple[str, ...]]:
    """Each option of each group at least once, in as few combinations as the longest group has options."""
    named = [[f"{group}={option}" for option in options(group)] for group in groups]
    return [tuple(names[row % len(names)] for names in named) for row in range(max(map(len, named)))]


@pytest.mark.parametrize("chosen", options_together("fabric", "gpu", "deepspeed", "recovery", "tracking"))
def test_options_that_go_with_any_cluster_plan(
    monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    gpus(monkeypatch, 8, "NVIDIA GeForce RTX 4090")
    plan = planned("cluster=dgx_h100", "job=tiny_gpt", "job.global_batch=128", *chosen)
    assert_plans(plan)
    fabric, _, deepspeed, *_ = (choice.partition("=")[2] for choice in chosen)
    assert plan.fabric == fabric
    assert plan.layout.zero_stage == int(deepspeed[4])


@pytest.fixture(scope="module")
def pretraining() -> Config:
    """job=pretrain on 128 GPUs; a test puts its model in."""
    size = ["cluster.nodes=16", "layout.recompute=true", "job.global_batch=128"]
    return composed("job=pretrain", "cluster=dgx_b200", "deepspeed=zero3", *size)


@pytest.mark.parametrize("option", options("model"))
def test_model_plans(pretraining: Config, option: str) -> None:
    config = replace(pretraining, model=loaded("model", option, ModelConfig))
    assert_plans(make_plan(config, "/job.py", "/", {}))


@pytest.mark.parametrize("option", options("job"))
def test_job_plans(option: str) -> None:
    size = ["cluster.nodes=16", "job.global_batch=2048", "job.script=train.py"]
    plan = planned("cluster=dgx_h100", f"job={option}", *size)
    assert (plan.model is None) == (plan.memory is None) == (option == "script")
    if plan.model is not None:
        assert_plans(plan)


def assert_plans(plan: Plan) -> None:
    """A plan that fits into memory, whose environment has all that its fabric asks for, and that prints."""
    assert plan.memory is not None
    assert 0 < plan.memory.total_bytes <= plan.gpu_memory_bytes
    assert loaded("fabric", plan.fabric, FabricConfig).environment.keys() <= plan.environment.keys()
    text = " ".join(str(plan).split())
    assert plan.node_type in text
    assert plan.gpu_type in text
    assert " ".join(plan.price.source.split()) in text


def test_a_plan_of_experts_shows_total_and_active_parameters(pretraining: Config) -> None:
    plan = planned(
        "job=pretrain",
        "model=mixtral_8x7b",
        "cluster=gcp_a3_mega",
        "deepspeed=zero3",
        "layout.recompute=true",
    )
    text = " ".join(str(plan).split())
    active = "12.7B active per token, 12.9B with the embedding"
    assert f"mixtral_8x7b, 46.7B parameters ({active}), 128 GFLOP per token" in text
    told = plan.to_json()["model"]
    assert told["active_parameters_with_embedding"] == 12_879_925_248
    assert told["active_parameters"] == 12_879_925_248 - 32_000 * 4096
    assert "active" not in str(make_plan(pretraining, "/job.py", "/", {}))


@pytest.mark.parametrize(
    ("model", "choice"),
    [
        ("mixtral_8x7b", "experts=8, but job 'pretrain' builds experts=1 only"),
        ("mistral_7b", "sliding_window=4096, but job 'pretrain' builds sliding_window=null only"),
        ("qwen2_5_7b", "qkv_biases=true, but job 'pretrain' builds qkv_biases=false only"),
        ("qwen3_32b", "head_dim=128, but job 'pretrain' builds head_dim=null only"),
    ],
)
def test_models_that_the_job_does_not_build_are_refused_by_name(
    pretraining: Config, model: str, choice: str
) -> None:
    config = replace(pretraining, model=loaded("model", model, ModelConfig))
    with pytest.raises(ConfigError, match=re.escape(f"model={model}: has {choice}")):
        check_script_builds(config)


@pytest.mark.parametrize("model", ["llama2_70b", "llama3_405b"])
def test_models_that_the_job_builds_are_not_refused(pretraining: Config, model: str) -> None:
    check_script_builds(replace(pretraining, model=loaded("model", model, ModelConfig)))


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8, 16])
@pytest.mark.parametrize("overrides", [("job=tiny_gpt",), ("experiment=smoke",)], ids=["tiny_gpt", "smoke"])
def test_the_embedded_default_fits_any_number_of_gpus(
    monkeypatch: pytest.MonkeyPatch, count: int, overrides: tuple[str, ...]
) -> None:
    gpus(monkeypatch, count, "NVIDIA H100 80GB HBM3")
    plan = make_plan(composed(*overrides), "/job.py", "/", {})
    assert (plan.layout.ranks, plan.layout.global_batch % count) == (count, 0)
