"""The search: as good as trying everything, never what DeepSpeed refuses, and instructive about what lost."""

from __future__ import annotations

import importlib.util
import itertools
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.config.schema import Config, GpuConfig, ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.deepspeed_rules import (
    expert_degrees,
    pipeline_degrees,
    refusal,
    sequence_degrees,
    tensor_degrees,
)
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.calibration import Calibration
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.memory import Memory, memory_of
from orchestrator.plan.perf.step import StepModel
from orchestrator.plan.plan import OFFLOAD_BUFFER_FACTOR
from orchestrator.plan.search import runners_up
from orchestrator.plan.search.search import explore, search
from orchestrator.plan.search.space import EASE, HEADROOM_SHARE, SAME_TIME, Sharding, Space, Subject
from tests.unit.config.test_conf import composed

ZEROS = (
    *(Zero(stage, overlap_comm=stage > 0, reduce_bucket=2 * 10**8) for stage in range(4)),
    *(Zero(stage, offload_optimizer=True, overlap_comm=True, reduce_bucket=2 * 10**8) for stage in (1, 2, 3)),
    Zero(3, True, True, overlap_comm=True, reduce_bucket=2 * 10**8),
    Zero(3, hpz=2, overlap_comm=True, reduce_bucket=2 * 10**8),
)
SHARDINGS = tuple(Sharding(zero) for zero in ZEROS)
ON_H100 = composed("job=pretrain", "model=llama3_8b", "cluster=azure_nd_h100_v5")
SMALL = ModelConfig(
    "small", layers=12, hidden=1024, heads=16, kv_heads=4, ffn=4096, vocab=32000, seq_len=2048
)
SPARSE = replace(SMALL, name="sparse", experts=8, experts_per_token=2)


def subject(model: ModelConfig, config: Config = ON_H100, memory_gb: float | None = None) -> Subject:
    gpu = config.gpu if memory_gb is None else replace(config.gpu, memory_bytes=int(memory_gb * 1e9))
    machine = Machine.of(config.cluster, gpu, config.fabric)
    return Subject(model, gpu, machine, config.planner, config.cluster.host_memory_bytes)


def space(model: ModelConfig, nodes: int, per_node: int, batch: int) -> Space:
    return Space(
        nodes,
        per_node,
        batch,
        "bf16",
        tp=tuple(tensor_degrees(model, per_node)),
        pp=tuple(pipeline_degrees(model)),
        sp=tuple(sequence_degrees(model)),
        ep=tuple(expert_degrees(model)),
        recompute=(False, True),
        shardings=SHARDINGS,
    )


def everything(where: Space, what: Subject) -> list[tuple[Layout, Zero]]:
    """Every layout that divides and that DeepSpeed runs, written down once more without any order or
    shortcut."""
    model, found = what.model, []
    powers = [2**power for power in range(20)]
    for tp, pp, sp, ep in itertools.product(range(1, 17), range(1, 13), range(1, 17), range(1, 17)):
        whole = not any(
            (
                model.heads % tp,
                model.kv_heads % tp,
                where.ranks_per_node % tp,
                pp > model.layers,
                model.kv_heads % sp,
            )
        )
        if not whole or model.experts % ep or where.ranks % (tp * pp * sp):
            continue
        dp = where.ranks // (tp * pp * sp)
        for micro_batch, recompute, zero in itertools.product(powers, (False, True), ZEROS):
            if dp % ep or where.global_batch % (dp * micro_batch) or refusal(tp, pp, sp, ep, zero):
                continue
            found.append(
                (
                    Layout(
                        where.nodes, where.ranks_per_node, where.ranks, dp, tp, pp, sp, ep, zero.stage,
                        zero.offload_optimizer, recompute, "bf16", micro_batch,
                        where.global_batch // (dp * micro_batch), where.global_batch,
                    ),
                    zero,
                )
            )  # fmt: skip
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([SMALL, SPARSE]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([24, 32, 96, 128]),
    st.sampled_from([7.0, 10.0, 16.0, 80.0]),
)
def test_as_good_as_trying_everything(
    model: ModelConfig, nodes: int, per_node: int, batch: int, gb: float
) -> None:
    where, what = space(model, nodes, per_node, batch), subject(model, memory_gb=gb)
    every, gpu = everything(where, what), what.gpu
    assume(every)
    steps = StepModel(model, what.machine, what.constants, "bf16")
    host_bytes = what.host_memory_bytes or 0
    fitting = []
    for layout, zero in every:
        memory = memory_of(model, gpu, layout, zero)
        on_host = memory.host_bytes * per_node * OFFLOAD_BUFFER_FACTOR
        if memory.total_bytes <= gpu.memory_bytes and on_host <= host_bytes:
            fitting.append((layout, zero, memory, steps.time(layout, zero).total_s))
    if not fitting:
        with pytest.raises(ConfigError, match="lacks"):
            search(where, what)
        return
    found = search(where, what)
    assert (found.considered, found.fitting) == (len(every), len(fitting))
    limit_bytes = (1 - HEADROOM_SHARE) * gpu.memory_bytes
    roomy = [entry for entry in fitting if entry[2].total_bytes <= limit_bytes]
    fastest_s = min(entry[3] for entry in roomy or fitting)
    near = [entry for entry in roomy or fitting if entry[3] <= fastest_s * (1 + EASE)]
    calm = [entry for entry in near if strain(entry, gpu) == min(strain(one, gpu) for one in near)]
    alike = [entry for entry in calm if entry[3] <= min(one[3] for one in calm) * (1 + SAME_TIME)]
    best = min(
        alike, key=lambda entry: (knobs(entry[0], entry[1]), entry[1].stage, entry[2].total_bytes, entry[3])
    )
    assert (found.best.layout, found.best.sharding.zero) == (best[0], best[1])


def strain(entry: tuple[Layout, Zero, Memory, float], gpu: GpuConfig) -> int:
    _, zero, memory, _ = entry
    return zero.offload_optimizer + zero.offload_parameters + (memory.total_bytes > 0.92 * gpu.memory_bytes)


def knobs(layout: Layout, zero: Zero) -> int:
    degrees = sum(degree > 1 for degree in (layout.tp, layout.pp, layout.sp, layout.ep))
    return degrees + layout.recompute + zero.offload_optimizer + zero.offload_parameters + (zero.hpz > 1)


@pytest.mark.parametrize(
    ("model", "nodes", "batch"), [(SMALL, 2, 128), (SPARSE, 2, 128), (ON_H100.model, 2, 512)]
)
def test_runners_up_are_of_other_kinds_and_each_says_why(model: ModelConfig, nodes: int, batch: int) -> None:
    found = search(space(model, nodes, 8, batch), subject(model))
    kinds = {runners_up._kind(other.candidate) for other in found.runners_up}
    assert len(kinds) == len(found.runners_up) >= 4
    assert runners_up._kind(found.best) not in kinds
    for other in found.runners_up:
        slower = other.candidate.step_time_s / found.best.step_time_s - 1
        if not other.candidate.fits:
            assert "does not fit by" in other.why or "lacks" in other.why
            assert ("faster" in other.why) == (slower < -SAME_TIME)
        elif slower < -SAME_TIME:
            assert "faster, but" in other.why
            assert other.candidate.strain > found.best.strain or not other.candidate.roomy
        elif "same time" in other.why:
            assert slower <= SAME_TIME
            less = other.candidate.free_bytes < found.best.free_bytes
            assert less or "less memory free" not in other.why
        else:
            assert "slower" in other.why or "times as long" in other.why
    times = [other.candidate.step_time_s for other in found.runners_up if other.candidate.fits]
    assert times == sorted(times)


def test_of_equally_fast_layouts_the_simpler_is_taken() -> None:
    """One rank has nothing to share: every ZeRO stage takes the same time."""
    found = search(space(SMALL, 1, 1, 8), subject(SMALL))
    assert found.best.sharding.zero.stage == 0
    assert not found.best.layout.recompute


def test_a_little_time_is_given_for_memory_and_against_offload() -> None:
    """Llama 3 70B on 64 nodes: the fastest offloads its optimizer and takes 93% of the memory, for 1.3%."""
    model = composed("model=llama3_70b").model
    assert model is not None
    files = (Zero(3, overlap_comm=True), Zero(3, hpz=8, overlap_comm=True, offload_optimizer=True))
    where = Space(
        64, 8, 2048, "bf16", tp=(1,), pp=(1,), sp=(1,), ep=(1,), recompute=(True,),
        shardings=tuple(Sharding(zero) for zero in files),
    )  # fmt: skip
    found = search(where, subject(model))
    assert not found.best.sharding.zero.offload_optimizer
    (faster,) = (one for one in found.runners_up if one.candidate.sharding.zero.hpz > 1)
    share = 1 - faster.candidate.step_time_s / found.best.step_time_s
    assert SAME_TIME < share <= EASE
    assert re.fullmatch(r"1\.\d% faster, but offloads optimizer and leaves only 5\.\d GB free", faster.why)
    # who knows the step times better gives nothing
    sure = subject(model)
    sure = replace(sure, constants=replace(sure.constants, step_time_error=0.001))
    assert search(where, sure).best.sharding.zero.offload_optimizer


def test_no_reason_is_given_that_does_not_hold() -> None:
    """What is as simple and has more memory free, and lost for being slower, is not said to have less."""
    plain, what = space(SMALL, 1, 8, 64), subject(SMALL)
    fitting = explore(plain, what).fitting
    for best, other in itertools.islice(itertools.permutations(fitting, 2), 0, None, 7):
        why = runners_up._why(other, best)
        assert ("less memory free" in why) <= (other.free_bytes < best.free_bytes)
        assert ("more free" in why) <= (other.free_bytes > best.free_bytes)


def test_a_calibration_decides_what_fits() -> None:
    what = subject(SMALL, memory_gb=16)
    more = replace(what, calibration=Calibration(memory_factor=3.0, compute_factor=2.0))
    where = space(SMALL, 1, 8, 64)
    plain, calibrated = search(where, what), search(where, more)
    assert calibrated.fitting < plain.fitting
    assert calibrated.best.step_time_s > plain.best.step_time_s


def test_nothing_fits_says_what_is_closest_and_what_would_do() -> None:
    large = composed("job=pretrain", "model=llama3_70b", "cluster=azure_nd_h100_v5").model
    assert large is not None
    plain = replace(space(large, 1, 8, 512), shardings=SHARDINGS[:4])
    with pytest.raises(ConfigError) as caught:
        search(plain, subject(large))
    message = str(caught.value)
    assert "\n" not in message
    assert "lacks" in message
    assert "deepspeed=zero3_offload" in message
    nodes = int(message.partition("cluster.nodes=")[2].split()[0])
    assert search(replace(plain, nodes=nodes), subject(large)).fitting
    with pytest.raises(ConfigError):
        search(replace(plain, nodes=nodes // 2), subject(large))


def test_a_batch_that_nothing_divides_is_refused_with_the_next_one_that_can_be_divided() -> None:
    where = replace(space(SMALL, 3, 8, 100), tp=(1,), pp=(1,), sp=(1,))
    with pytest.raises(ConfigError, match=r"job.global_batch=100.*use job.global_batch=96") as caught:
        search(where, subject(SMALL))
    assert "\n" not in str(caught.value)
    assert search(replace(where, global_batch=96), subject(SMALL)).fitting


def test_what_was_given_and_deepspeed_refuses_is_said() -> None:
    where = replace(space(SMALL, 1, 8, 64), pp=(2,), shardings=SHARDINGS[3:4])
    with pytest.raises(ConfigError, match=r"layout.pp=2.*ZeRO-0 and ZeRO-1 only"):
        search(where, subject(SMALL))


@pytest.mark.parametrize(
    ("degrees", "zero"),
    [
        ((1, 2, 1, 1), Zero(2)),
        ((1, 2, 1, 1), Zero(3)),
        ((1, 2, 1, 1), Zero(1, offload_optimizer=True)),
        ((1, 2, 2, 1), Zero(0)),
        ((1, 2, 1, 2), Zero(0)),
        ((2, 1, 2, 1), Zero(0)),
        ((1, 1, 2, 2), Zero(0)),
        ((1, 1, 1, 2), Zero(3)),
        ((2, 1, 1, 2), Zero(2, offload_optimizer=True)),
        ((1, 1, 1, 1), Zero(0, offload_optimizer=True)),
        ((1, 1, 1, 1), Zero(2, offload_parameters=True)),
        ((1, 1, 1, 1), Zero(2, hpz=8)),
        ((2, 1, 1, 1), Zero(3, hpz=8)),
    ],
)
def test_what_deepspeed_does_not_run_together(degrees: tuple[int, int, int, int], zero: Zero) -> None:
    assert refusal(*degrees, zero)


@pytest.mark.parametrize(
    "zero", [Zero(3), Zero(3, hpz=8), Zero(3, True, True), Zero(2, offload_optimizer=True)]
)
def test_data_parallelism_goes_with_every_zero(zero: Zero) -> None:
    assert refusal(1, 1, 1, 1, zero) is None


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("runtime/pipe/engine.py", "ZeRO-2 and ZeRO-3 are incompatible with pipeline parallelism"),
        ("runtime/engine.py", "Native DeepSpeed MoE is not supported with ZeRO Stage 3"),
        ("runtime/engine.py", "AutoTP + ZeRO stage 3 is supported for both inference and training"),
        ("runtime/engine.py", "self.mpu = groups"),
        ("module_inject/auto_ep_folding.py", "Ulysses sequence parallelism are mutually exclusive"),
        ("module_inject/auto_ep_folding.py", "ZeRO optimizer/parameter offload with AutoEP+AutoTP folding"),
        (
            "utils/groups.py",
            "ranks = range(i * zero_param_parallel_size_, (i + 1) * zero_param_parallel_size_)",
        ),
        ("sequence/layer.py", "a smaller count leaves a rank with no head to attend over"),
        ("moe/layer.py", "assert num_experts % ep_size == 0"),
    ],
)
def test_deepspeed_still_says_so(file: str, words: str) -> None:
    """The rules cite its source; another version may know better."""
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    assert spec.origin is not None
    assert words in (Path(spec.origin).parent / file).read_text()


@pytest.mark.parametrize(("nodes", "batch"), [(2048, 2048), (2048, 16384), (54000, 54000), (54000, 864000)])
def test_large_clusters_are_searched_while_one_waits(nodes: int, batch: int) -> None:
    model = composed("job=pretrain", "model=llama3_405b", "cluster=azure_nd_h100_v5").model
    assert model is not None
    begin = time.process_time()
    found = search(space(model, nodes, 8, batch), subject(model))
    assert time.process_time() - begin < 1.0
    assert found.best.layout.ranks == nodes * 8
