"""A step's parts: that they add up, follow from the layout, and bend only where the field says they do."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.stages import Schedule
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.memory import memory_of
from orchestrator.plan.perf.mfu import model_flops_utilisation
from orchestrator.plan.perf.software import DEEPSPEED, Software
from orchestrator.plan.perf.step import StepModel, StepTime
from orchestrator.plan.perf.transformer import training_flops_per_token
from tests.support.planned_machines import CLUSTERS, constants, kernels, layout, machine, trained_models
from tests.unit.plan.test_memory import H100, LLAMA_8B, LLAMA_70B, MIXTRAL

clusters = st.sampled_from(CLUSTERS)


def step(
    model: ModelConfig,
    laid: Layout,
    zero: Zero | None = None,
    on: Machine | None = None,
    software: Software = DEEPSPEED,
) -> StepTime:
    return StepModel(model, on or machine(), constants(), "bf16", software).time(
        laid, zero or Zero.of_layout(laid)
    )


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Up to 512 ranks."""
    powers = st.sampled_from([1, 2, 4, 8])
    return layout(
        dp=draw(powers), tp=draw(powers), pp=draw(st.sampled_from([1, 2, 4])),
        sp=draw(st.sampled_from([1, 2])), stage=draw(st.integers(0, 3)), micro=draw(st.integers(1, 4)),
        accumulation=draw(st.integers(1, 16)), recompute=draw(st.booleans()),
    )  # fmt: skip


zeros = st.builds(
    lambda stage, offload,
    overlap: Zero(stage, offload and stage > 0, offload and stage == 3, overlap_comm=overlap),
    st.integers(0, 3), st.booleans(), st.booleans(),
)  # fmt: skip


@given(trained_models(), layouts(), zeros, clusters)
def test_parts_are_not_negative_and_add_up(
    model: ModelConfig, laid: Layout, zero: Zero, cluster: str
) -> None:
    found = step(model, laid, zero, machine(cluster))
    parts = found.parts()
    assert parts.keys() == {field.name for field in dataclasses.fields(StepTime)} - {"hidden_s"}
    assert all(seconds >= 0 for seconds in parts.values())
    assert found.hidden_s >= 0
    assert sum(parts.values()) == pytest.approx(found.total_s)
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


@given(trained_models(), layouts())
def test_parallelism_that_is_not_there_takes_no_time(model: ModelConfig, laid: Layout) -> None:
    found = step(model, laid)
    for degree, seconds in ((laid.tp, found.tp_s), (laid.sp, found.sp_s), (laid.pp, found.pp_s), (laid.ep, found.ep_s),
                            (laid.pp, found.bubble_s)):  # fmt: skip
        assert (degree == 1) == (seconds == 0)
    assert (laid.recompute is False) == (found.recompute_s == 0)
    if laid.dp * laid.sp == 1:
        assert found.dp_s == found.hidden_s == 0


@given(trained_models(), layouts(), st.integers(2, 8))
def test_steps_are_linear_in_their_micro_batches(model: ModelConfig, laid: Layout, times: int) -> None:
    """But for the first one, whose gradients are not added to any."""
    laid = replace(laid, accumulation=2)
    once, more = step(model, laid), step(model, replace(laid, accumulation=2 * times))
    for name in (
        "matmul_s",
        "attention_s",
        "memory_bound_s",
        "recompute_s",
        "tp_s",
        "sp_s",
        "pp_s",
        "data_s",
    ):
        assert getattr(more, name) == pytest.approx(times * getattr(once, name)), name
    assert more.bubble_s == pytest.approx(once.bubble_s)
    assert more.optimizer_s == once.optimizer_s
    waiting = once.host_s - constants().host_s_per_step
    assert more.host_s - constants().host_s_per_step == pytest.approx(times * waiting)


@given(trained_models(), layouts(), st.sampled_from([2, 4]), st.sampled_from([1, 2]))
def test_the_bubble_is_the_other_stages_first_and_last_micro_batch(
    model: ModelConfig, laid: Layout, pp: int, vp: int
) -> None:
    """(pp - 1) / (vp m) of the time of m micro-batches (Narayanan et al. 2021, section 2.2), of stages
    without the head, which the slowest has."""
    laid = replace(laid, pp=pp, vp=vp)
    found, head = step(model, laid), kernels(model).head(laid.micro_batch, laid.tp, laid.sp)
    busy_s = (
        found.compute_s
        - found.optimizer_s
        - constants().host_s_per_step
        + found.tp_s
        + found.sp_s
        + found.ep_s
    )
    each_s, others = busy_s / laid.accumulation, (pp - 1) / vp
    assert others * (each_s - head.forward_s - head.backward_s) <= found.bubble_s * (1 + 1e-9)
    assert found.bubble_s < others * each_s * (1 - 1e-6)


@given(trained_models(), layouts(), clusters)
def test_recomputation_adds_the_layers_forward_pass(model: ModelConfig, laid: Layout, cluster: str) -> None:
    kept, again = (step(model, replace(laid, recompute=r, pp=1), on=machine(cluster)) for r in (False, True))
    forward_s = kernels(model, cluster).layer(laid.micro_batch, laid.tp, laid.sp).forward_s
    assert again.recompute_s == pytest.approx(laid.accumulation * model.layers * forward_s)
    assert (again.matmul_s, again.attention_s, again.memory_bound_s) == (
        kept.matmul_s, kept.attention_s, kept.memory_bound_s
    )  # fmt: skip
    assert again.tp_s == pytest.approx(1.5 * kept.tp_s)
    assert again.sp_s == pytest.approx(1.5 * kept.sp_s)


def test_selective_recomputation_repeats_attention_or_the_share_that_the_software_does() -> None:
    laid = layout(dp=8, accumulation=4, selective=True)
    found = step(LLAMA_8B, laid, software=Software(fused_attention=False))
    forward_s = kernels(LLAMA_8B, software=Software(fused_attention=False)).layer(1, 1, 1).attention_forward_s
    assert found.recompute_s == pytest.approx(4 * 32 * forward_s)
    cheap_s = 4 * 32 * kernels(LLAMA_8B).layer(1, 1, 1).memory_forward_s
    assert step(LLAMA_8B, laid).recompute_s == pytest.approx(cheap_s)
    share = step(LLAMA_8B, laid, software=Software(selective_share=0.5)).recompute_s
    whole = step(LLAMA_8B, replace(laid, recompute=True, selective=False)).recompute_s
    assert share == pytest.approx(whole / 2)
    assert step(LLAMA_8B, replace(laid, recompute=True)).recompute_s == whole


@given(trained_models(), layouts(), zeros, st.floats(1, 20), clusters)
def test_a_faster_fabric_never_makes_a_step_slower(
    model: ModelConfig, laid: Layout, zero: Zero, faster: float, cluster: str
) -> None:
    here = machine(cluster)
    there = replace(
        here, node_bytes_per_s=faster * here.node_bytes_per_s, fabric_latency_s=here.fabric_latency_s / faster
    )
    before, after = step(model, laid, zero, here), step(model, laid, zero, there)
    assert after.total_s <= before.total_s * (1 + 1e-12)
    assert after.tp_s == before.tp_s  # within a node
    assert after.compute_s == pytest.approx(before.compute_s)


@given(trained_models(), layouts(), st.sampled_from([2, 4, 8]))
def test_more_data_parallel_ranks_compute_no_longer(model: ModelConfig, laid: Layout, times: int) -> None:
    wider = replace(
        laid, dp=times * laid.dp, ranks=times * laid.ranks, nodes=max(1, times * laid.ranks // 8),
        ranks_per_node=min(8, times * laid.ranks), global_batch=times * laid.global_batch,
    )  # fmt: skip
    before, after = step(model, laid), step(model, wider)
    assert after.compute_s <= before.compute_s * (1 + 1e-12)
    assert (after.matmul_s, after.attention_s, after.tp_s) == (
        before.matmul_s,
        before.attention_s,
        before.tp_s,
    )


@given(trained_models(), layouts(), zeros, clusters)
def test_no_step_is_faster_than_its_products(
    model: ModelConfig, laid: Layout, zero: Zero, cluster: str
) -> None:
    """MFU that counts what causal attention needs stays below what a large product sustains."""
    here = machine(cluster)
    tokens_per_s = laid.global_batch * model.seq_len / step(model, laid, zero, here).total_s
    mfu = model_flops_utilisation(model, here, "bf16", laid.ranks, tokens_per_s)
    causal = mfu * training_flops_per_token(model, "causal") / training_flops_per_token(model)
    assert 0 < causal < here.matmul_efficiency["bf16"]


@given(trained_models(), layouts(), zeros, clusters)
def test_twice_the_machine_takes_half_the_time_but_for_latency_and_host(
    model: ModelConfig, laid: Layout, zero: Zero, cluster: str
) -> None:
    slow = replace(machine(cluster), fabric_latency_s=0.0)
    fast = replace(
        slow,
        peak_flops={name: 2 * peak for name, peak in slow.peak_flops.items()},
        hbm_bytes_per_s=2 * slow.hbm_bytes_per_s,
        link_bytes_per_s=2 * slow.link_bytes_per_s,
        node_bytes_per_s=2 * slow.node_bytes_per_s,
        host_link_bytes_per_s=2 * slow.host_link_bytes_per_s,
    )
    before, after = step(model, laid, zero, slow), step(model, laid, zero, fast)
    for name in ("matmul_s", "attention_s", "memory_bound_s", "recompute_s", "optimizer_s", "data_s"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) / 2), name
    assert before.total_s / 2 <= after.total_s <= before.total_s


def test_a_host_that_is_slow_bounds_small_models_and_hardly_large_ones() -> None:
    """It starts kernels beside the accelerator's work: what it takes shows where there is little of that."""
    small = replace(LLAMA_8B, layers=12, hidden=768, heads=12, kv_heads=12, ffn=3072, seq_len=256)
    for model, share in ((small, (0.5, 1.0)), (LLAMA_70B, (0.0, 0.02))):
        found = step(model, layout(dp=8, stage=3))
        assert share[0] <= found.host_s / found.total_s <= share[1]
        least_s = 2 * model.layers * constants().host_s_per_layer
        assert found.total_s >= least_s


def test_the_last_stage_is_the_slowest_where_layers_divide_evenly() -> None:
    """It has the head as well; a pipeline runs at the speed of its slowest stage."""
    whole = step(LLAMA_8B, layout(dp=4, pp=1))
    halves = step(LLAMA_8B, layout(dp=4, pp=2))
    assert whole.matmul_s / 2 < halves.matmul_s < whole.matmul_s
    assert whole.attention_s == pytest.approx(2 * halves.attention_s)


def test_sequence_parallelism_beyond_a_node_sees_the_fabric() -> None:
    within, beyond = (step(LLAMA_8B, layout(dp=1, tp=tp, sp=8)).sp_s for tp in (1, 2))
    assert beyond > within / 2 * 1.5  # half the heads each, and half of the exchange between nodes


def test_expert_parallel_ranks_exchange_tokens_and_no_gradients_of_experts() -> None:
    """Without, all ranks reduce all experts; with it, each has its own and sends the tokens around."""
    alone, shared = (step(MIXTRAL, layout(dp=8, ep=ep), Zero(1)) for ep in (1, 8))
    assert alone.ep_s == 0 < shared.ep_s
    assert shared.dp_s < alone.dp_s / 2
    assert shared.optimizer_s == pytest.approx(alone.optimizer_s)  # a shard of the same size


def test_what_experts_send_hides_beside_another_micro_batch_and_slows_it() -> None:
    alone = replace(layout(dp=8, stage=1, accumulation=4), ep=8)
    shown = step(MIXTRAL, alone)
    hidden = step(MIXTRAL, replace(alone, ep_overlap=True))
    assert hidden.ep_s == pytest.approx(constants().contention * shown.ep_s)
    assert hidden.hidden_s - shown.hidden_s == pytest.approx(shown.ep_s - hidden.ep_s)
    assert replace(hidden, ep_s=shown.ep_s, hidden_s=shown.hidden_s) == shown
    # with one micro-batch there is no other, and more than there is to compute stays to be seen
    once = replace(alone, accumulation=1)
    assert step(MIXTRAL, replace(once, ep_overlap=True)) == step(MIXTRAL, once)
    slow = replace(machine(), link_bytes_per_s=machine().link_bytes_per_s / 100)
    assert step(MIXTRAL, replace(alone, ep_overlap=True), on=slow).ep_s > 10 * shown.ep_s


def test_only_layers_with_experts_send_tokens_to_them() -> None:
    laid = replace(layout(dp=8, stage=1), ep=8)
    few = replace(MIXTRAL, dense_layers=MIXTRAL.layers // 2)
    assert step(few, laid).ep_s == pytest.approx(step(MIXTRAL, laid).ep_s / 2)


def test_a_host_that_waits_for_every_kernel_hides_nothing() -> None:
    """CUDA_LAUNCH_BLOCKING=1: what starting the kernels takes is on top, communication beside none."""
    waiting = replace(machine(), waits_for_kernels=True)
    laid = layout(dp=8, tp=8, stage=1, accumulation=4)
    before, after = step(LLAMA_70B, laid), step(LLAMA_70B, laid, on=waiting)
    calls = 4 * LLAMA_70B.layers * 2 * (1 + constants().host_share_of_tp * 3)
    host_s = calls * constants().host_s_per_layer + constants().host_s_per_step
    assert before.host_s < 0.3 * host_s
    assert after.host_s == pytest.approx(host_s)
    assert before.hidden_s > 0
    assert after.hidden_s == 0
    assert after.dp_s > before.dp_s
    assert step(LLAMA_70B, laid, on=waiting, software=replace(DEEPSPEED, tp_overlap=True)).tp_s == after.tp_s


def test_gradients_of_deepspeeds_pipelines_wait_for_the_last_backward_pass() -> None:
    zero = Zero(1, overlap_comm=True)
    laid = layout(dp=8, pp=4, stage=1, accumulation=8)
    assert step(LLAMA_8B, laid, zero) == step(LLAMA_8B, laid, replace(zero, overlap_comm=False))
    other = replace(laid, framework="megatron")
    assert step(LLAMA_8B, other, zero).dp_s < step(LLAMA_8B, laid, zero).dp_s


def test_replicas_of_an_expert_are_as_far_apart_as_there_are_expert_parallel_ranks() -> None:
    """With eight on each node, the two replicas of an expert are on two nodes: a slow fabric slows both
    parts."""
    slow = replace(machine(), node_bytes_per_s=machine().node_bytes_per_s / 1000)
    laid, zero = layout(dp=16, ep=8), Zero(1)
    narrow = replace(MIXTRAL, ffn=1)  # next to nothing but the experts differs
    experts_s = [
        step(MIXTRAL, laid, zero, on).dp_s - step(narrow, laid, zero, on).dp_s for on in (machine(), slow)
    ]
    assert experts_s[1] == pytest.approx(1000 * experts_s[0], rel=0.01)


def test_experts_and_the_rest_hide_behind_the_same_compute() -> None:
    """What two experts of two and one dense layer of twice the width move is the same, and so is what
    shows."""
    zero, slow = (
        Zero(1, overlap_comm=True),
        replace(machine(), node_bytes_per_s=machine().node_bytes_per_s / 100),
    )
    for on in (machine(), slow):
        found = step(MIXTRAL, layout(dp=64), zero, on)
        assert 0 < found.hidden_s <= constants().dp_hidden_share * (found.compute_s - found.optimizer_s)


def test_overlapping_software_hides_tensor_parallel_communication() -> None:
    laid = layout(tp=8, accumulation=2)
    plain, overlapped = (step(LLAMA_8B, laid, software=Software(tp_overlap=on)) for on in (False, True))
    assert overlapped.tp_s + overlapped.hidden_s == pytest.approx(plain.tp_s + plain.hidden_s)
    assert overlapped.hidden_s == pytest.approx(constants().tp_hidden_share * plain.tp_s)


def test_ring_attention_shows_only_what_attention_does_not_hide() -> None:
    short, long = (replace(LLAMA_8B, seq_len=length) for length in (2048, 131072))
    exchanged = layout(sp=8)
    ring = replace(exchanged, sp=1, cp=8)
    assert step(long, ring).sp_s == 0 < step(long, exchanged).sp_s
    assert step(short, ring).sp_s > 0
    assert step(long, ring).attention_s == step(long, exchanged).attention_s


def test_interleaved_stages_send_beside_what_they_compute() -> None:
    """In software that sends them so; without interleaving there is nothing else to compute meanwhile."""
    laid = layout(tp=8, pp=4, accumulation=16)
    for vp, overlaps, shown in ((1, True, 1.0), (4, False, 4.0), (4, True, 4.0 * constants().contention)):
        found = step(LLAMA_70B, replace(laid, vp=vp), software=Software(tp_overlap=overlaps))
        assert found.pp_s == pytest.approx(shown * step(LLAMA_70B, laid).pp_s)


def test_a_pipeline_without_a_bubble_holds_the_micro_batches_that_fill_it() -> None:
    zero_bubble = replace(DEEPSPEED, schedule=Schedule.zero_bubble)
    laid = layout(dp=1, pp=8, accumulation=32)
    assert step(LLAMA_8B, laid, software=zero_bubble).bubble_s == 0 < step(LLAMA_8B, laid).bubble_s
    more = memory_of(LLAMA_8B, H100, laid, software=zero_bubble).activations
    assert more > 1.8 * memory_of(LLAMA_8B, H100, laid).activations


def test_layers_that_predict_further_tokens_cost_a_layer_and_a_head_each() -> None:
    further = replace(LLAMA_8B, mtp_layers=1)
    laid = layout(dp=8)
    found, plain = step(further, laid), step(LLAMA_8B, laid)
    deeper = step(replace(LLAMA_8B, layers=33), laid)
    assert found.attention_s == pytest.approx(deeper.attention_s)
    assert found.matmul_s > deeper.matmul_s > plain.matmul_s


def test_the_first_layers_without_experts_take_their_own_time() -> None:
    """What a layer takes lies between one with experts and one without, by how many there are of each."""
    sparse = replace(MIXTRAL, dense_ffn=1024)
    by_count = [kernels(replace(sparse, dense_layers=n)).layer(1, 1, 1).matmul_forward_s for n in (0, 8, 16)]
    assert by_count[1] == pytest.approx((by_count[0] + by_count[2]) / 2)
    assert by_count[0] > by_count[2]
