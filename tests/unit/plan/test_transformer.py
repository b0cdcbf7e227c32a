"""Parameter counts against published ones, and FLOPs against published formulas and totals."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.config.load import conf_dir
from orchestrator.config.schema import ClusterConfig, FabricConfig, GpuConfig, ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.perf.kv_cache import kv_bytes, kv_bytes_per_token
from orchestrator.plan.perf.machine import Machine, peak_flops
from orchestrator.plan.perf.mfu import hardware_flops_utilisation, model_flops_utilisation
from orchestrator.plan.perf.transformer import (
    attention_pairs,
    forward_flops_per_token,
    parameters,
    recompute_flops_per_token,
    training_flops_per_token,
)
from tests.support.folders import JOBS

sys.path.insert(0, str(JOBS))
gpt = importlib.import_module("gpt")


def model_named(option: str) -> ModelConfig:
    loaded = OmegaConf.load(conf_dir() / "model" / f"{option}.yaml")
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), loaded))  # type: ignore[return-value]


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    heads, head_dim = draw(st.sampled_from([1, 2, 4, 8])), 2 * draw(st.integers(1, 16))
    return ModelConfig(
        name="drawn",
        layers=draw(st.integers(1, 6)),
        hidden=heads * head_dim,
        heads=heads,
        kv_heads=draw(st.sampled_from([k for k in (1, 2, 4, 8) if heads % k == 0])),
        ffn=draw(st.integers(1, 64)),
        vocab=draw(st.integers(1, 64)),
        seq_len=draw(st.integers(1, 64)),
        tie_embeddings=draw(st.booleans()),
    )


# Totals of the published weights (safetensors index on huggingface.co); active ones of models with experts
# are those that a token passes, the embedding counted, which Jiang et al. 2024 round to 13B and Yang et al. 2025
# to 3.3B.
PUBLISHED = [
    ("llama2_7b", 6_738_415_616, None),
    ("llama2_13b", 13_015_864_320, None),
    ("llama2_70b", 68_976_648_192, None),
    ("llama3_8b", 8_030_261_248, None),
    ("llama3_70b", 70_553_706_496, None),
    ("llama3_405b", 405_853_388_800, None),
    ("mistral_7b", 7_241_732_096, None),
    ("mixtral_8x7b", 46_702_792_704, 12_879_925_248),
    ("qwen2_5_7b", 7_615_616_512, None),
    ("qwen2_5_72b", 72_706_203_648, None),
    ("qwen3_8b", 8_190_735_360, None),
    ("qwen3_32b", 32_762_123_264, None),
    ("qwen3_30b_a3b", 30_532_122_624, 3_353_032_704),
    ("qwen3_235b_a22b", 235_093_634_560, 22_190_763_520),
    ("deepseek_v3", 671_026_419_200, 37_552_297_472),
]


@pytest.mark.parametrize(("option", "total", "active"), PUBLISHED)
def test_counts_are_the_published_ones(option: str, total: int, active: int | None) -> None:
    count = parameters(model_named(option))
    assert count.total == total
    assert count.active_with_embedding == (active or total)


# As the sources print them, in billions, total and active, and whether those count the embedding. gpt-oss: its
# model card, table 1; DeepSeek-V3: arXiv 2412.19437, and its card; Kimi K2: its card on huggingface.co, "32 billion
# activated parameters" of 1T; Qwen3: arXiv 2505.09388, table 2; Mixtral: mistral.ai, "12.9B parameters per token".
PRINTED = [
    ("deepseek_v3", "671", "37", False),
    ("kimi_k2", "1e+03", "32", False),
    ("gpt_oss_120b", "116.83", "5.13", False),
    ("gpt_oss_20b", "20.91", "3.61", False),
    ("mixtral_8x7b", "46.7", "12.9", True),
    ("qwen3_30b_a3b", "30.5", "3.35", True),
    ("qwen3_235b_a22b", "235", "22", True),
]


@pytest.mark.parametrize(("option", "total", "active", "with_embedding"), PRINTED)
def test_counts_of_models_with_experts_are_those_that_their_sources_print(
    option: str, total: str, active: str, with_embedding: bool
) -> None:
    """To the digits that are printed."""
    count = parameters(model_named(option))
    passed = count.active_with_embedding if with_embedding else count.active
    for counted, printed in ((count.total, total), (passed, active)):
        digits = 1 if "e" in printed else len(printed.replace(".", ""))
        assert float(f"{counted / 1e9:.{digits}g}") == float(printed)


def test_the_embedding_is_active_where_it_is_the_head_too() -> None:
    model = model_named("llama3_8b")
    tied, own = parameters(replace(model, tie_embeddings=True)), parameters(model)
    assert own.active == own.total - own.embedding
    assert tied.active == tied.total
    learned = parameters(replace(model, tie_embeddings=True, learned_positions=True))
    assert learned.active == learned.total - learned.positions == tied.active


def test_training_flops_of_deepseek_v3_are_the_published_ones() -> None:
    """Zhao et al. 2025 (Insights into DeepSeek-V3, arXiv 2505.09343), table 2: 250 GFLOPs a token at 4,096
    tokens, causal attention, without the layer that predicts a further token."""
    model = replace(model_named("deepseek_v3"), mtp_layers=0)
    assert training_flops_per_token(model, "causal") == pytest.approx(250e9, rel=0.005)
    assert training_flops_per_token(model_named("llama3_405b"), "causal") > 2448e9  # theirs, at 4,096 tokens


def test_the_layer_for_a_further_token_is_trained_and_not_counted() -> None:
    """DeepSeek-V3's card: 14 billion beside the 671, of which 1.85 are copies of embedding and head."""
    count = parameters(model_named("deepseek_v3"))
    assert (count.mtp + 2 * 129280 * 7168) / 1e9 == pytest.approx(14, abs=0.6)
    assert count.trained == count.total + count.mtp


def test_latent_attention_keeps_what_is_published_and_grouped_queries_what_they_share() -> None:
    """Zhao et al. 2025, table 1: KB of keys and values a token in 16 bits."""
    published = {"deepseek_v3": 70.272, "qwen2_5_72b": 327.680, "llama3_405b": 516.096}
    for option, kilobytes in published.items():
        assert kv_bytes_per_token(model_named(option)) == pytest.approx(1e3 * kilobytes)
    assert kv_bytes(model_named("llama3_405b"), 1000) == pytest.approx(516.096e6)


def test_a_window_bounds_what_its_layers_keep() -> None:
    model = model_named("gpt_oss_20b")  # every other of its 24 layers sees 128 positions
    per_layer = 2 * 8 * 64 * 2
    assert kv_bytes(model, 100) == 24 * 100 * per_layer
    assert kv_bytes(model, 10_000) == 12 * (10_000 + 128) * per_layer
    pairs = (4096 / 2 + 128 * (1 - 128 / (2 * 4096))) / 2
    assert attention_pairs(model, "causal") == pytest.approx(pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_lora_rank": 8}, r"model.q_lora_rank=8: is a part of latent attention.*model.kv_lora_rank"),
        ({"kv_lora_rank": 8, "head_dim": 8}, r"model.kv_lora_rank=8: .*model.rope_head_dim"),
        ({"kv_lora_rank": 8, "kv_heads": 4}, r"model.kv_heads=4: .*use model.kv_heads=8"),
        ({"dense_layers": 1}, r"model.dense_layers=1: .*model.experts=1"),
        ({"experts": 4, "dense_layers": 2}, r"model.dense_layers=2: leaves none.*use model.dense_layers=1"),
        ({"shared_experts": 1}, r"model.shared_experts=1: .*model.experts=1"),
        ({"full_attention_every": 2}, r"model.full_attention_every=2: without model.sliding_window"),
        ({"mtp_layers": -1}, r"model.mtp_layers=-1 must be 0 or more"),
    ],
)
def test_parts_of_a_model_that_mean_nothing_together_are_refused(
    change: dict[str, int], message: str
) -> None:
    model = replace(ModelConfig("m", 2, 64, 8, 8, 64, 64, 64), **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        parameters(model)


def test_gpt3_count_is_the_published_one() -> None:
    """Brown et al. 2020, table D.1: 174,600 million."""
    count = parameters(model_named("gpt3_175b"))
    assert count.total == 174_604_259_328
    assert round(count.total / 1e8) == 1746
    h = 12288
    assert count.layer == 12 * h * h + 13 * h  # Narayanan et al. 2021: 12 l h^2 (1 + 13 / 12h)


def test_grok_count_is_the_published_one() -> None:
    """xai.com: "314 billion parameters", of which "25% of the weights" are active on a token."""
    count = parameters(model_named("grok1_314b"))
    assert count.total == pytest.approx(314e9, rel=0.01)
    assert count.active / count.total == pytest.approx(0.25, abs=0.02)


@settings(deadline=None)  # the first module initialises torch
@given(models())
def test_count_is_that_of_the_module_that_the_job_trains(model: ModelConfig) -> None:
    names = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len", "tie_embeddings")
    module = gpt.GPT(gpt.Shape(**{name: getattr(model, name) for name in names}))
    assert parameters(model).total == sum(parameter.numel() for parameter in module.parameters())


def test_training_flops_of_gpt3_agree_with_the_published_total() -> None:
    """Brown et al. 2020, table D.1: 3.14e23 for 300 billion tokens, without attention's 3%."""
    total = 300e9 * training_flops_per_token(model_named("gpt3_175b"))
    assert total == pytest.approx(3.14e23, rel=0.04)


def test_training_flops_are_narayanans_formula() -> None:
    """96 B s l h^2 (1 + s/6h + V/16lh) with recompute, of which the head is not recomputed."""
    model = model_named("gpt3_175b")
    layers, h, s, vocab = model.layers, model.hidden, model.seq_len, model.vocab
    published = 96 * layers * h**2 * (1 + s / (6 * h) + vocab / (16 * layers * h))
    ours = training_flops_per_token(model) + recompute_flops_per_token(model)
    assert ours == pytest.approx(published, rel=1e-9)


def test_causal_attention_counts_half_the_pairs() -> None:
    model = model_named("llama3_8b")
    full, causal = forward_flops_per_token(model, "full"), forward_flops_per_token(model, "causal")
    assert full - causal == pytest.approx(model.layers * 2 * model.seq_len * model.hidden)


def test_a_token_pays_for_the_experts_that_it_passes() -> None:
    """Two of Mixtral's eight cost what a dense model does whose MLP is as wide as both, and the router."""
    moe = model_named("mixtral_8x7b")
    dense = replace(moe, ffn=2 * moe.ffn, experts=1, experts_per_token=1)
    router = moe.layers * 2 * moe.hidden * 8
    assert forward_flops_per_token(moe) == pytest.approx(forward_flops_per_token(dense) + router)
    assert parameters(moe).total > 3 * parameters(dense).total


def test_a_sliding_window_leaves_a_band_of_attention() -> None:
    """Of 8,192 positions and a window of 4,096: the first half is a triangle, the second a full band."""
    windowed = model_named("mistral_7b")
    whole = replace(windowed, sliding_window=None)
    pairs = (4096 * 4096 / 2 + 4096 * 4096) / 8192
    saved = forward_flops_per_token(whole, "causal") - forward_flops_per_token(windowed, "causal")
    assert saved == pytest.approx(windowed.layers * 4 * (8192 / 2 - pairs) * windowed.hidden)
    longer = replace(windowed, sliding_window=windowed.seq_len * 2)
    assert forward_flops_per_token(longer) == forward_flops_per_token(whole)


def test_heads_of_their_own_width_attend_at_that_width() -> None:
    model = model_named("qwen3_32b")  # 64 heads of 128 on 5,120
    full, causal = forward_flops_per_token(model, "full"), forward_flops_per_token(model, "causal")
    assert full - causal == pytest.approx(model.layers * 2 * model.seq_len * 64 * 128)


@given(models())
def test_recompute_repeats_the_layers_only(model: ModelConfig) -> None:
    head = 2 * model.vocab * model.hidden
    assert recompute_flops_per_token(model) == pytest.approx(forward_flops_per_token(model) - head)


def test_more_experts_per_token_than_there_are_is_refused() -> None:
    model = ModelConfig("m", 1, 64, 8, 8, 64, 64, 64, experts=4, experts_per_token=5)
    with pytest.raises(ConfigError, match=r"model.experts_per_token=5 is more than model.experts=4"):
        parameters(model)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "key"), [(7, 7, "model.hidden=64"), (8, 3, "model.kv_heads=3")]
)
def test_indivisible_heads_are_refused(heads: int, kv_heads: int, key: str) -> None:
    model = ModelConfig("m", 1, 64, heads, kv_heads, 64, 64, 64)
    with pytest.raises(ConfigError, match=key):
        parameters(model)


def machine_of(gpu: GpuConfig) -> Machine:
    return Machine.of(ClusterConfig(gpus_per_node=8), gpu, FabricConfig())


MACHINE = machine_of(GpuConfig(name="GPU", peak_flops={"bf16": 1e15}))


@given(models(), st.integers(1, 4096), st.floats(1, 1e9))
def test_mfu_is_the_needed_flops_over_the_peak_and_hfu_what_is_recomputed_more(
    model: ModelConfig, ranks: int, tokens_per_s: float
) -> None:
    mfu = model_flops_utilisation(model, MACHINE, "bf16", ranks, tokens_per_s)
    assert mfu * ranks * 1e15 == pytest.approx(tokens_per_s * training_flops_per_token(model))
    assert model_flops_utilisation(model, MACHINE, "bf16", 2 * ranks, 2 * tokens_per_s) == pytest.approx(mfu)
    kept = hardware_flops_utilisation(model, MACHINE, "bf16", ranks, tokens_per_s, recompute=False)
    again = hardware_flops_utilisation(model, MACHINE, "bf16", ranks, tokens_per_s, recompute=True)
    assert kept == mfu
    assert mfu < again < 1.34 * mfu  # a forward pass more on three, less the head


def test_missing_peak_names_the_precision_and_those_known() -> None:
    with pytest.raises(ConfigError, match=r"job.precision=fp8.*known: bf16"):
        peak_flops("GPU", {"bf16": 1e15}, "fp8")
    with pytest.raises(ConfigError, match=r"gpu.peak_flops.bf16"):
        model_flops_utilisation(
            model_named("llama3_8b"), machine_of(GpuConfig(name="bare")), "bf16", 8, 1000.0
        )


@pytest.mark.parametrize(
    ("model", "tokens_per_s_per_gpu", "published"),
    [
        # mosaicml/llm-foundry@8c8dd48 benchmarking README: MPT-70B shape, 64 and 32 H100, MFU column.
        (ModelConfig("mpt-70b", 80, 8192, 64, 64, 32768, 50368, 2048, gated_mlp=False), 1039, 0.4257),
        (ModelConfig("mpt-70b", 80, 8192, 64, 64, 32768, 50368, 2048, gated_mlp=False), 882, 0.3615),
    ],
)
def test_mfu_agrees_with_published_rows(
    model: ModelConfig, tokens_per_s_per_gpu: float, published: float
) -> None:
    machine = machine_of(GpuConfig(name="H100", peak_flops={"bf16": 989e12}))
    assert model_flops_utilisation(model, machine, "bf16", 1, tokens_per_s_per_gpu) == pytest.approx(
        published, rel=0.02
    )
