"""Parameter counts against published ones, and FLOPs against published formulas and totals."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.config import GpuConfig, ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.load import conf_dir
from orchestrator.plan.step import model_flops_utilisation, peak_flops, step_time_s
from orchestrator.plan.transformer import (
    forward_flops_per_token,
    parameters,
    recompute_flops_per_token,
    training_flops_per_token,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
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


def test_llama3_counts_are_the_published_ones() -> None:
    assert parameters(model_named("llama3_8b")).total == 8_030_261_248
    assert parameters(model_named("llama3_70b")).total == 70_553_706_496


def test_gpt3_count_is_the_published_one() -> None:
    """Brown et al. 2020, table D.1: 174,600 million."""
    count = parameters(model_named("gpt3_175b"))
    assert count.total == 174_604_259_328
    assert round(count.total / 1e8) == 1746
    h = 12288
    assert count.layer == 12 * h * h + 13 * h  # Narayanan et al. 2021: 12 l h^2 (1 + 13 / 12h)


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


@given(models())
def test_recompute_repeats_the_layers_only(model: ModelConfig) -> None:
    head = 2 * model.vocab * model.hidden
    assert recompute_flops_per_token(model) == pytest.approx(forward_flops_per_token(model) - head)


@pytest.mark.parametrize(("heads", "kv_heads", "key"), [(7, 7, "model.hidden=64"), (8, 3, "model.kv_heads=3")])
def test_indivisible_heads_are_refused(heads: int, kv_heads: int, key: str) -> None:
    model = ModelConfig("m", 1, 64, heads, kv_heads, 64, 64, 64)
    with pytest.raises(ConfigError, match=key):
        parameters(model)


GPU = GpuConfig(name="GPU", peak_flops={"bf16": 1e15}, utilisation=0.4)


@given(models(), st.integers(1, 4096), st.integers(1, 10**7))
def test_step_at_the_predicted_time_has_the_assumed_utilisation(model: ModelConfig, ranks: int, tokens: int) -> None:
    seconds = step_time_s(model, GPU, "bf16", ranks, tokens, recompute=False)
    assert seconds is not None
    assert model_flops_utilisation(model, GPU, "bf16", ranks, tokens / seconds) == pytest.approx(0.4)
    slower = step_time_s(model, GPU, "bf16", ranks, tokens, recompute=True)
    assert slower is not None
    assert seconds < slower < 1.34 * seconds


def test_step_time_is_unknown_without_a_utilisation() -> None:
    gpu = GpuConfig(name="GPU", peak_flops={"bf16": 1e15})
    assert step_time_s(model_named("llama3_8b"), gpu, "bf16", 8, 8192, False) is None


def test_missing_peak_names_the_precision_and_those_known() -> None:
    with pytest.raises(ConfigError, match=r"job.precision=fp8.*known: bf16"):
        peak_flops(GPU, "fp8")


@pytest.mark.parametrize(
    ("model", "tokens_per_s_per_gpu", "published"),
    [
        # mosaicml/llm-foundry@8c8dd48 benchmarking README: MPT-70B shape, 64 and 32 H100, MFU column.
        (ModelConfig("mpt-70b", 80, 8192, 64, 64, 32768, 50368, 2048, gated_mlp=False), 1039, 0.4257),
        (ModelConfig("mpt-70b", 80, 8192, 64, 64, 32768, 50368, 2048, gated_mlp=False), 882, 0.3615),
    ],
)
def test_mfu_agrees_with_published_rows(model: ModelConfig, tokens_per_s_per_gpu: float, published: float) -> None:
    gpu = GpuConfig(name="H100", peak_flops={"bf16": 989e12})
    assert model_flops_utilisation(model, gpu, "bf16", 1, tokens_per_s_per_gpu) == pytest.approx(published, rel=0.02)
