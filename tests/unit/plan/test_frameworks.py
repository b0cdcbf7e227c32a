"""Layouts of Megatron and FSDP: what each framework does not do is refused, what it does is planned, and
published runs come out near what they measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config.choices import Framework
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.baseline import nominal
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.mfu import model_flops_utilisation
from orchestrator.plan.perf.software import FSDP, MEGATRON, software_of
from orchestrator.plan.perf.transformer import training_flops_per_token
from orchestrator.plan.plan import make_plan
from orchestrator.plan.search.divided import (
    OtherScript,
    best_divided,
    context_degrees,
    search_with_hint,
)
from orchestrator.plan.search.remedies import what_fits
from orchestrator.plan.search.search import explore
from orchestrator.plan.search.space import Sharding, Space, Subject
from tests.support.planned_machines import constants, layout, machine
from tests.unit.config.test_conf import composed
from tests.unit.plan.test_memory import H100, LLAMA_8B, LLAMA_70B, MIXTRAL


def megatron(*words: str) -> Config:
    return composed(
        "job=llama3_70b", "job.supports=null", "cluster=dgx_h100", "job.framework=megatron", "deepspeed=zero1",
        "layout.recompute=false", "job.global_batch=2048", *words,
    )  # fmt: skip


REFUSED = [
    (
        ("job.precision=fp8",),
        r"job.precision=fp8: DeepSpeed's engine.*job.precision=bf16.*job.framework=fsdp",
    ),
    (("layout.cp=2",), r"layout.cp=2: DeepSpeed has nothing like it.*job.framework=megatron"),
    (("layout.recompute=false", "layout.selective=true"), r"layout.selective=true: DeepSpeed"),
    (("layout.sequence_parallel=true",), r"layout.sequence_parallel=true: DeepSpeed"),
    (("layout.recompute=true", "layout.selective=true"), r"layout.selective=true: but layout.recompute=true"),
    (
        ("job.framework=megatron", "deepspeed=zero3"),
        r"stage=3: Megatron.*use deepspeed=zero0 or deepspeed=zero1",
    ),
    (("job.framework=fsdp", "deepspeed=zero1"), r"stage=1: FSDP.*use deepspeed=zero2 or deepspeed=zero3"),
    (("job.framework=fsdp", "deepspeed=zero3_offload"), r"offload is DeepSpeed's, and job.framework=fsdp"),
    (("job.framework=megatron", "deepspeed=zero1", "layout.sp=2"), r"layout.sp=2: .*use layout.cp=2"),
    (
        ("job.framework=megatron", "deepspeed=zero1", "layout.sequence_parallel=true"),
        r"layout.sequence_parallel=true: .*layout.tp=1",
    ),
    (("layout.ep_overlap=true",), r"layout.ep_overlap=true: DeepSpeed.*job.framework=megatron"),
    (
        ("job.framework=fsdp", "deepspeed=zero3", "layout.ep_overlap=true"),
        r"layout.ep_overlap=true: FSDP has nothing like it.*job.framework=megatron",
    ),
    (
        ("job.framework=megatron", "deepspeed=zero1", "layout.ep_overlap=true"),
        r"layout.ep_overlap=true: .*layout.ep=1",
    ),
    (
        ("job.framework=megatron", "deepspeed=zero1", "layout.pp=16", "layout.vp=7"),
        r"model.layers / layout.pp=5: not divisible by layout.vp=7",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_a_framework_does_not_do_is_refused_with_what_does(words: tuple[str, ...], message: str) -> None:
    config = composed("job=llama3_70b", "job.supports=null", "cluster=dgx_h100", "cluster.nodes=16", *words)
    with pytest.raises(ConfigError, match=message):
        derive_layout(config)


def test_context_ranks_divide_positions_and_leave_the_rest_to_data_parallelism() -> None:
    laid = derive_layout(megatron("cluster.nodes=16", "layout.tp=8", "layout.cp=4"))
    assert (laid.dp, laid.cp, laid.replicas, laid.sequence_ranks) == (4, 4, 16, 4)
    assert laid.degrees == "dp 4 × tp 8 × cp 4"
    with pytest.raises(ConfigError, match=r"tp × pp × sp × cp = 24 does not divide the 128 ranks"):
        derive_layout(megatron("cluster.nodes=16", "layout.tp=8", "layout.cp=3"))


def test_stages_with_embedding_and_head_as_layers_can_be_interleaved() -> None:
    """126 layers and these two in 16 stages are eight each."""
    words = ("model=llama3_405b", "cluster.nodes=2048", "layout.tp=8", "layout.pp=16", "layout.vp=8")
    assert derive_layout(megatron(*words)).vp == 8


def test_sequence_parallelism_is_as_the_framework_does_or_as_it_is_told() -> None:
    laid = replace(layout(tp=8), framework=Framework.megatron.value)
    assert software_of(laid) == MEGATRON
    assert not software_of(replace(laid, sequence_parallel=False)).sequence_parallel
    assert software_of(replace(laid, framework=Framework.fsdp.value)) == FSDP


# Grattafiori et al. 2024 (The Llama 3 Herd of Models), table 4: GPUs, tensor, context and pipeline parallel
# degrees, sequence length, sequences of a step, BF16 TFLOP/s of a GPU. Nothing is fitted to these.
LLAMA3_405B = [
    (8192, 8, 1, 16, 8192, 2048, 430),
    (16384, 8, 1, 16, 8192, 2048, 400),
    (16384, 8, 16, 16, 131072, 128, 380),
]


@pytest.mark.parametrize(("gpus", "tp", "cp", "pp", "seq_len", "batch", "tflops"), LLAMA3_405B)
def test_llama_3_405b_takes_about_what_it_took(
    gpus: int, tp: int, cp: int, pp: int, seq_len: int, batch: int, tflops: int
) -> None:
    """It ran Meta's own software, which is taken for Megatron's, on NICs of 400 Gb/s of RoCE."""
    config = megatron(
        "model=llama3_405b", f"model.seq_len={seq_len}", f"cluster.nodes={gpus // 8}", f"layout.tp={tp}",
        f"layout.pp={pp}", f"layout.cp={cp}", "layout.vp=8", "layout.selective=true",
        f"job.global_batch={batch}",
    )  # fmt: skip
    laid = derive_layout(config)
    found = nominal(config, laid)
    assert found is not None
    assert found.step is not None
    assert config.model is not None
    assert found.memory.total_bytes < config.gpu.memory_bytes  # it trained
    rate = batch * seq_len / found.step.total_s
    on = Machine.of(config.cluster, config.gpu, config.fabric)
    mfu = model_flops_utilisation(config.model, on, "bf16", laid.ranks, rate)
    needed = training_flops_per_token(config.model, "causal") / training_flops_per_token(config.model)
    assert mfu * needed * 989 == pytest.approx(tflops, rel=0.2)


def test_deepseek_v3_takes_about_what_it_took() -> None:
    """DeepSeek-AI 2024 (arXiv 2412.19437): 180,000 hours of an H800 for a trillion tokens on 2,048 of them, in
    16 stages, experts over 64 ranks, its DualPipe hiding what they send each other. Nothing is fitted to it."""
    words = (
        "model=deepseek_v3", "cluster=deepseek_h800", "cluster.nodes=256", "layout.pp=16", "layout.ep=64",
        "job.global_batch=15360", "job.precision=fp8", "layout.selective=true",
    )  # fmt: skip
    seconds = {}
    for overlap in (False, True):
        config = megatron(*words, f"layout.ep_overlap={str(overlap).lower()}")
        found = nominal(config, derive_layout(config))
        assert found is not None
        assert found.step is not None
        seconds[overlap] = found.step.total_s
    rate = 15360 * 4096 / seconds[True] / 2048
    assert rate == pytest.approx(1e12 / (180_000 * 3600), rel=0.3)
    assert seconds[False] > 1.2 * seconds[True]


def test_auto_hides_what_experts_send_where_there_are_any_apart() -> None:
    """With ``ep_overlap`` free it is looked at where experts are divided, and not with full recomputation,
    with which Megatron-Core does not do it."""
    zero = (Sharding(Zero(1, overlap_comm=True)),)
    space = replace(
        data_parallel_space(1, 64), framework=Framework.megatron, shardings=zero, ep=(1, 8),
        ep_overlap=(False, True), layers=MIXTRAL.layers,
    )  # fmt: skip
    subject = replace(SUBJECT, model=replace(MIXTRAL, layers=4))
    looked_at = {
        (one.layout.ep, one.layout.recompute, one.layout.ep_overlap)
        for one in explore(space, subject).fitting
    }
    assert (8, False, True) in looked_at
    assert not looked_at & {(1, False, True), (1, True, True), (8, True, True)}
    given = replace(space, ep_overlap=(True,))
    assert {one.layout.ep_overlap for one in explore(given, subject).fitting if one.layout.ep == 8} == {True}


def test_fp8_products_are_faster_and_the_rest_is_not() -> None:
    wide, narrow = (
        nominal(config, derive_layout(config))
        for config in (
            megatron("cluster.nodes=64", "layout.tp=8", "layout.pp=4", f"job.precision={precision}")
            for precision in ("bf16", "fp8")
        )
    )
    assert wide is not None
    assert narrow is not None
    assert wide.step is not None
    assert narrow.step is not None
    assert narrow.step.matmul_s < 0.75 * wide.step.matmul_s
    assert narrow.step.attention_s == wide.step.attention_s
    assert narrow.step.memory_bound_s > wide.step.memory_bound_s  # casts and transposes
    assert narrow.memory.weights == 2 * wide.memory.weights  # two FP8 copies beside the 16-bit weights


def data_parallel_space(nodes: int, batch: int = 1024) -> Space:
    return Space(
        nodes=nodes, ranks_per_node=8, global_batch=batch, precision="bf16", tp=(1,), pp=(1,), sp=(1,), ep=(1,),
        recompute=(False, True), shardings=(Sharding(Zero(3, overlap_comm=True)),), layers=80,
    )  # fmt: skip


SUBJECT = Subject(LLAMA_70B, H100, machine(), constants())


def megatron_script(nodes: int, subject: Subject = SUBJECT, batch: int = 1024) -> OtherScript:
    space = replace(
        data_parallel_space(nodes, batch),
        tp=(1, 2, 4, 8), pp=(1, 2, 4, 8), vp=(1, 2, 5), selective=(False, True),
        shardings=(Sharding(Zero(1, overlap_comm=True)),), framework=Framework.megatron,
        layers=subject.model.layers,
    )  # fmt: skip
    return OtherScript(("job.framework=megatron", "job.supports=null"), space, subject)


def test_a_data_parallel_job_is_told_what_dividing_the_model_would_bring() -> None:
    space = data_parallel_space(64)
    found = search_with_hint(space, SUBJECT, megatron_script(64))
    assert found.divided is not None
    assert found.divided_by == ("job.framework=megatron", "job.supports=null")
    assert found.divided.step_time_s < 0.9 * found.best.step_time_s
    assert found.divided.layout.framework == "megatron"
    assert found.divided.layout.tp * found.divided.layout.pp > 1
    assert search_with_hint(space, SUBJECT).divided is None
    # a model that gains nothing is told nothing
    small = replace(SUBJECT, model=replace(LLAMA_8B, layers=2))
    one = data_parallel_space(1, 64)
    assert search_with_hint(one, small, megatron_script(1, small, 64)).divided is None
    # where nothing fits, the refusal says what would
    huge = replace(SUBJECT, model=replace(LLAMA_70B, layers=400))
    with pytest.raises(ConfigError, match=r"in none of .*; a script of tensor .* would fit with dp .* × tp "):
        search_with_hint(data_parallel_space(16), huge, megatron_script(16, huge))
    alone = megatron_script(1, small, 64)
    assert best_divided(replace(alone, space=replace(alone.space, ranks_per_node=1))) is None


def test_what_would_fit_is_what_the_framework_has() -> None:
    """Megatron recomputes a part of each layer, and shards no more than its optimizer."""
    laid = replace(layout(dp=8, tp=8, stage=0, micro=4), framework=Framework.megatron.value)
    found = what_fits(LLAMA_8B, replace(H100, memory_bytes=30 * 10**9), laid, Zero(0))
    assert any("layout.selective=true" in one for one in found)
    assert not any("zero2" in one or "zero3" in one for one in found)
    own = what_fits(LLAMA_8B, replace(H100, memory_bytes=30 * 10**9), layout(dp=8, tp=8, stage=0, micro=4))
    assert not any("selective" in one for one in own)


def test_a_ring_has_two_parts_of_each_sequence_for_every_rank() -> None:
    assert context_degrees(replace(LLAMA_8B, seq_len=8)) == [1, 2, 4]
    assert context_degrees(replace(LLAMA_8B, seq_len=131072)) == [1, 2, 4, 8, 16, 32, 64]


def test_a_page_says_how_megatron_divides_and_nothing_of_deepspeeds_file() -> None:
    words = ("layout.tp=8", "layout.cp=2", "layout.selective=true", "cluster.nodes=16", "job.corpus=[stdlib]")
    made = megatron(*words)
    page = " ".join(str(make_plan(made, "/train.py", "/", {})).split())
    assert "dp 8 × tp 8 × cp 2, distributed optimizer, sequence parallel, bf16, selective recompute" in page
    assert "{deepspeed_config}: batch" not in page
    fsdp = megatron(*words[:2], *words[3:], "job.framework=fsdp", "deepspeed=zero3")
    assert "dp 8 × tp 8 × cp 2, FSDP, bf16" in " ".join(str(make_plan(fsdp, "/train.py", "/", {})).split())
