"""What ZeRO's stages move and hide in a step, and how DeepSpeed's section is read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.model_states import HOST_ADAM_BYTES, HOST_MEMORY_BYTES_PER_S
from orchestrator.plan.perf.step import StepModel, StepTime
from orchestrator.plan.perf.transformer import parameters
from tests.support.planned_machines import constants, layout, machine, trained_models
from tests.unit.plan.test_memory import LLAMA_8B, LLAMA_70B

stages = st.integers(0, 3)


def still() -> Machine:
    """Without latency between nodes."""
    return replace(machine(), fabric_latency_s=0.0)


def step(model: ModelConfig, laid: Layout, zero: Zero, on: Machine | None = None) -> StepTime:
    """Without latency within a node."""
    without = replace(constants(), link_latency_s=0.0)
    return StepModel(model, on or machine(), without, "bf16").time(replace(laid, zero_stage=zero.stage), zero)


def moved_s(model: ModelConfig, laid: Layout, zero: Zero, on: Machine | None = None) -> float:
    """Data parallel communication, hidden or not; of a layout without tensor parallelism."""
    found = step(model, laid, zero, on)
    return found.dp_s + found.hidden_s


@given(trained_models(), st.sampled_from([8, 16, 64, 512]))
def test_a_step_of_one_micro_batch_moves_as_much_as_rajbhandari_says(model: ModelConfig, dp: int) -> None:
    """2 psi up to stage 2 and 3 psi at stage 3, of which each rank moves (dp - 1) / dp (Rajbhandari et al.
    2020)."""
    size_bytes = 2 * parameters(model).total * (dp - 1) / dp
    bytes_per_s = min(
        machine().link_bytes_per_s * constants().link_efficiency,
        machine().node_bytes_per_s * machine().fabric_efficiency if dp > 8 else float("inf"),
    )
    for stage, times in ((0, 2), (1, 2), (2, 2), (3, 3)):
        seconds = moved_s(model, layout(dp=dp), Zero(stage), still())
        # the final norm is not counted
        assert seconds == pytest.approx(times * size_bytes / bytes_per_s, rel=1e-3)


@given(trained_models(), st.sampled_from([8, 64]), st.integers(2, 32))
def test_accumulation_costs_stages_two_and_three_communication(
    model: ModelConfig, dp: int, times: int
) -> None:
    once, more = layout(dp=dp), layout(dp=dp, accumulation=times)
    seconds = {stage: moved_s(model, more, Zero(stage), still()) for stage in range(4)}
    single = {stage: moved_s(model, once, Zero(stage), still()) for stage in range(4)}
    assert seconds[0] == pytest.approx(single[0])
    assert seconds[1] == pytest.approx(single[1])
    assert seconds[2] == pytest.approx((times + 1) / 2 * single[2])  # gradients each time, weights once
    assert seconds[3] == pytest.approx(times * single[3])


@given(trained_models(), st.sampled_from([2, 8, 16, 64]), stages, st.integers(1, 4), st.integers(1, 4))
def test_what_is_hidden_is_not_shown_and_nothing_is_lost(
    model: ModelConfig, dp: int, stage: int, micro: int, accumulation: int
) -> None:
    laid = layout(dp=dp, micro=micro, accumulation=accumulation)
    shown, hidden = (step(model, laid, Zero(stage, overlap_comm=overlap)) for overlap in (False, True))
    assert hidden.dp_s + hidden.hidden_s == pytest.approx(shown.dp_s + shown.hidden_s)
    assert hidden.dp_s <= shown.dp_s
    busy_s = hidden.total_s - hidden.dp_s
    assert hidden.hidden_s <= constants().dp_hidden_share * busy_s


@pytest.mark.parametrize(
    ("stage", "asked"), [(0, None), (0, True), (1, None), (1, True), (2, True), (3, None)]
)
def test_transfers_hide_where_deepspeed_runs_them_beside_compute(stage: int, asked: bool | None) -> None:
    zero = Zero.from_config({"zero_optimization": {"stage": stage, "overlap_comm": asked}})
    assert (step(LLAMA_8B, layout(dp=16), zero).hidden_s > 0) == (stage == 3 or (stage > 0 and asked is True))


@given(trained_models(), st.sampled_from([16, 64, 512]), st.integers(1, 8))
def test_a_second_copy_on_each_node_saves_a_gathering_over_the_fabric(
    model: ModelConfig, dp: int, accumulation: int
) -> None:
    laid = layout(dp=dp, accumulation=accumulation)
    plain, copied = (step(model, laid, Zero(3, hpz=hpz)) for hpz in (1, 8))
    assert copied.dp_s <= plain.dp_s
    assert copied.dp_s + copied.hidden_s < plain.dp_s + plain.hidden_s
    assert copied.compute_s == plain.compute_s


def test_a_second_copy_over_several_nodes_is_gathered_over_the_fabric() -> None:
    laid = layout(dp=512)
    seconds = {hpz: moved_s(LLAMA_70B, laid, Zero(3, hpz=hpz)) for hpz in (1, 8, 32)}
    assert seconds[8] < seconds[32] < seconds[1]
    slow, slower = (replace(still(), node_bytes_per_s=still().node_bytes_per_s / share) for share in (10, 20))
    for hpz, all_over_fabric in ((8, False), (32, True)):
        here, there = (moved_s(LLAMA_70B, laid, Zero(3, hpz=hpz), on) for on in (slow, slower))
        assert (there == pytest.approx(2 * here, rel=1e-6)) == all_over_fabric


@given(trained_models(), st.sampled_from([2, 8, 64]), stages)
def test_sharded_optimizers_take_a_ranks_part_of_the_time(model: ModelConfig, dp: int, stage: int) -> None:
    whole, found = (step(model, layout(dp=dp), Zero(s)).optimizer_s for s in (0, stage))
    assert found == pytest.approx(whole / (dp if stage else 1))


@given(trained_models(), st.sampled_from([2, 8, 64]), st.integers(1, 8))
def test_offload_moves_the_shard_and_steps_on_the_host(
    model: ModelConfig, dp: int, accumulation: int
) -> None:
    laid, shard = layout(dp=dp, accumulation=accumulation), parameters(model).total / dp
    there = step(model, laid, Zero(2, offload_optimizer=True))
    link = machine().host_link_bytes_per_s
    adam_s = shard * HOST_ADAM_BYTES / HOST_MEMORY_BYTES_PER_S
    assert there.offload_s == pytest.approx(shard * 4 / link + adam_s, rel=1e-3)
    assert there.optimizer_s == 0 < step(model, laid, Zero(2)).optimizer_s
    assert there.total_s > step(model, laid, Zero(2)).total_s
    weights = step(model, laid, Zero(3, offload_optimizer=True, offload_parameters=True))
    assert weights.offload_s == pytest.approx(there.offload_s + 2 * accumulation * shard * 2 / link, rel=1e-3)


def test_stages_keep_and_add_their_own_part_of_the_gradients() -> None:
    """Stages 0 and 1 add all of them at each micro-batch, 2 and 3 a shard; without accumulation nobody
    adds."""
    added = {
        stage: step(LLAMA_8B, layout(dp=8, accumulation=2), Zero(stage)).memory_bound_s
        - 2 * step(LLAMA_8B, layout(dp=8), Zero(stage)).memory_bound_s
        for stage in range(4)
    }
    assert added[0] == pytest.approx(added[1])
    assert added[2] == pytest.approx(added[3]) == pytest.approx(added[0] / 8)
    assert added[3] > 0


def test_the_section_is_read_with_deepspeeds_defaults() -> None:
    for stage in range(4):
        read = Zero.from_config({"zero_optimization": {"stage": stage}})
        assert read == Zero(stage, overlap_comm=stage == 3)
        assert read.overlaps == (stage == 3)
    assert Zero.from_config({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}).hpz == 8
    for stage in range(3):
        told = Zero.from_config({"zero_optimization": {"stage": stage, "overlap_comm": True}})
        assert told.overlaps == (stage > 0)
    live = Zero.from_config({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1e8}})
    assert live.live_parameters == 10**8


@pytest.mark.parametrize("stage", range(4))
def test_a_layouts_offload_means_what_its_stage_can_offload(stage: int) -> None:
    zero = Zero.of_layout(replace(layout(dp=8, stage=stage), offload=True))
    assert (zero.stage, zero.offload_optimizer, zero.offload_parameters) == (stage, stage > 0, stage == 3)
    kept = Zero.of_layout(layout(dp=8, stage=stage))
    assert not kept.offload_optimizer
    assert not kept.offload_parameters
