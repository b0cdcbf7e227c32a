"""Layouts: numbers that agree, and one-line refusals with both values and the remedy for those that do
not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import Config, Device, GpuConfig, ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import derive_layout


def config(**changes: Any) -> Config:
    made = Config()
    made.cluster.name, made.cluster.nodes, made.cluster.gpus_per_node = "test", 2, 4
    made.gpu = GpuConfig(name="gpu", memory_bytes=80 * 10**9, peak_flops={"bf16": 1e15}, source="test")
    made.model = ModelConfig("m", layers=4, hidden=64, heads=8, kv_heads=4, ffn=128, vocab=256, seq_len=128)
    made.job.name, made.job.global_batch, made.job.micro_batch = "job", 32, 2
    for key, value in changes.items():
        owner: Any = made
        *path, leaf = key.split("__")
        for name in path:
            owner = getattr(owner, name)
        setattr(owner, leaf, value)
    return made


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        derive_layout(config(**changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_accumulation_follows_from_the_batch() -> None:
    layout = derive_layout(config())
    assert (layout.ranks, layout.dp, layout.accumulation, layout.precision) == (8, 8, 2, "bf16")


def test_the_batch_follows_from_accumulation() -> None:
    layout = derive_layout(config(job__global_batch=None, job__gradient_accumulation=3))
    assert layout.global_batch == 2 * 3 * 8


def test_deepspeeds_own_keys_win() -> None:
    layout = derive_layout(config(deepspeed={"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4}))
    assert (layout.global_batch, layout.micro_batch, layout.accumulation) == (64, 4, 2)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 16), st.integers(1, 16))
def test_batches_multiply_out(nodes: int, gpus: int, micro: int, accumulation: int) -> None:
    total = nodes * gpus * micro * accumulation
    layout = derive_layout(
        config(
            cluster__nodes=nodes, cluster__gpus_per_node=gpus, job__micro_batch=micro, job__global_batch=total
        )
    )
    assert layout.micro_batch * layout.accumulation * layout.dp == total
    assert layout.ranks == layout.dp * layout.tp * layout.pp * layout.sp


def test_batches_that_do_not_multiply_out_carry_both_values_and_the_remedy() -> None:
    assert (
        refused(job__global_batch=33)
        == "job.global_batch=33: not a multiple of job.micro_batch=2 × 8 data-parallel ranks = 16; "
        "use job.global_batch=32 or another job.micro_batch"
    )
    message = refused(job__gradient_accumulation=3)
    assert "job.gradient_accumulation=3 × 8 data-parallel ranks = 48" in message
    assert "use job.global_batch=48" in message


def test_more_ranks_than_the_cluster_has() -> None:
    assert (
        "job.ranks=9: more than the cluster has (cluster.nodes=2 × cluster.gpus_per_node=4 = 8)"
        in refused(job__ranks=9)
    )
    assert "use 4 or 8" in refused(job__ranks=6)


def test_fewer_ranks_take_fewer_nodes() -> None:
    layout = derive_layout(config(job__ranks=2))
    assert (layout.nodes, layout.ranks_per_node, layout.ranks) == (1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"layout__tp": 3}, "layout: tp × pp × sp = 3 does not divide the 8 ranks"),
        ({"layout__tp": 8}, "model.kv_heads=4: not divisible by layout.tp=8"),
        ({"layout__pp": 8}, "model.layers=4: fewer than the layout.pp=8 stages; use layout.pp=4 or less"),
        ({"model__heads": 6}, "not divisible by model.heads=6; use a model.heads that divides 64: 4 or 8"),
        ({"model__kv_heads": 3}, "model.heads=8: not divisible by model.kv_heads=3"),
        ({"layout__ep": 3}, "layout.ep=3: does not divide the 8 data-parallel ranks"),
        ({"cluster__nodes": 0}, "cluster.nodes=0: must be greater than 0"),
        ({"job__steps": -5}, "job.steps=-5: must be greater than 0"),
        ({"model__layers": 0}, "model.layers=0: must be greater than 0"),
        ({"model__experts": 8, "model__experts_per_token": 9}, "model.experts_per_token=9: more than model.experts=8"),
        ({"model__experts": 6, "layout__ep": 4}, "model.experts=6: not divisible by layout.ep=4"),
        ({"layout__ep": 4}, "layout.ep=4: model=m has no experts to divide (model.experts=1); use layout.ep=1"),
        ({"model__sliding_window": 0}, "model.sliding_window=0: must be greater than 0"),
        ({"recovery__max_restarts": -1}, "recovery.max_restarts=-1: must be 0 or more"),
        ({"launch__log_max_bytes": 1000000}, "launch.log_max_bytes=1000000: less than the beginning and the end of"),
        ({"launch__log_max_bytes": -1}, "launch.log_max_bytes=-1: must be 0 or more; write e.g. launch.log_max_bytes=1073741824 or launch.log_max_bytes=null"),
        ({"job__precision": "bf61"}, "job.precision=bf61: not one of auto, bf16, fp16, fp32, fp8; did you mean 'bf16'?"),
    ],
)  # fmt: skip
def test_refusals_name_key_values_and_remedy(changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(**changes)


def test_a_script_that_cannot_do_a_degree_is_not_asked_to() -> None:
    assert "layout.tp=2: job 'job' cannot do it" in refused(layout__tp=2, job__supports=[])
    assert derive_layout(config(layout__tp=2, job__supports=["tp"])).dp == 4


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, "bf16"),
        ({"gpu__peak_flops": {"fp32": 1e12}, "gpu__device": Device.cpu}, "fp32"),
        ({"gpu__peak_flops": {}}, "bf16"),
        ({"job__precision": "fp32"}, "fp32"),
        ({"deepspeed": {"fp16": {"enabled": True}}}, "fp16"),
    ],
)
def test_precision(changes: dict[str, Any], precision: str) -> None:
    assert derive_layout(config(**changes)).precision == precision


def test_two_precisions_are_refused() -> None:
    both = {"bf16": {"enabled": True}, "fp16": {"enabled": True}}
    assert "write deepspeed.fp16.enabled=false or" in refused(deepspeed=both)


def test_heads_of_their_own_width_need_not_divide_the_hidden_size() -> None:
    assert derive_layout(config(model__hidden=72, model__heads=16, model__head_dim=8)).dp == 8
    assert derive_layout(config(model__experts=8, model__experts_per_token=2, layout__ep=4)).ep == 4
