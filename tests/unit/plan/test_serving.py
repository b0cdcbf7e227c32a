"""Serving by hand, and what holds for every load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.serving.memory import footprint
from orchestrator.plan.serving.request import ServingRequest, Software
from orchestrator.plan.serving.roofline import Stage
from orchestrator.plan.serving.serving import replica_of, serve
from tests.support.served import request

MODELS = st.sampled_from(["llama3_8b", "llama3_70b", "mixtral_8x7b"])
LOADS = {
    "requests_per_day": st.floats(1e3, 1e9),
    "tokens_in": st.floats(1, 4000),
    "tokens_out": st.floats(1, 3000),
}
TARGETS = {"ttft_s": st.none() | st.floats(0.5, 10), "tpot_s": st.none() | st.floats(0.05, 1)}
loads = st.builds(request, MODELS, **LOADS, **TARGETS)


def usd_per_day(asked: ServingRequest) -> float | None:
    try:
        return serve(asked).usd_per_day
    except ConfigError:
        return None


# ---- by hand ----------------------------------------------------------------------------------


def test_weights_and_cache_of_llama3_8b_on_two_ranks() -> None:
    """16.06 GB of weights; 8 heads of 128 for keys and as many for values in 32 layers, 2 bytes each."""
    found = footprint(request().model, Software(), tp=2, pp=1)
    assert found.weights_bytes == pytest.approx(8_030_261_248)
    assert found.kv_bytes_per_token == 2 * 8 * 128 * 32 * 2 / 2
    assert footprint(request().model, Software("int4", "fp8"), 1, 1).weights_bytes == pytest.approx(
        4_015_130_624
    )


def test_ranks_beyond_the_key_value_heads_keep_copies_and_latent_attention_is_kept_whole() -> None:
    model = request().model
    by_heads = [footprint(model, Software(), tp, 1).kv_bytes_per_token for tp in (8, 16)]
    assert by_heads[0] == by_heads[1]
    latent = Software(kv_elements_per_layer=576)
    assert footprint(model, latent, 8, 1).kv_bytes_per_token == 576 * 32 * 2
    assert footprint(model, latent, 8, 2).kv_bytes_per_token == 576 * 32


def test_one_token_alone_reads_all_weights_once() -> None:
    """Of 3.35 TB/s 80% are reached: 15.0 GB without the embedding take 5.6 ms."""
    asked = request()
    seconds = Stage(asked, tp=1, pp=1).decode(1.0, 0.0)
    read = (parameters(asked.model).total - asked.model.vocab * asked.model.hidden) * 2
    assert seconds.memory_s == pytest.approx(read / (3.35e12 * 0.8), rel=1e-3)
    assert seconds.total_s == seconds.memory_s
    assert seconds.memory_s == pytest.approx(5.6e-3, rel=0.01)


def test_a_long_prompt_is_bound_by_compute() -> None:
    """7.0 billion parameters in layers, 2 FLOPs each a token, at 67.04% of 989 TFLOP/s, and attention."""
    asked = request()
    seconds = Stage(asked, tp=1, pp=1).prefill(1, 4096)
    assert seconds.compute_s > 5 * seconds.memory_s
    assert seconds.compute_s == pytest.approx(2 * 6.98e9 * 4096 / (989e12 * 0.6704), rel=0.12)


def test_littles_law_and_the_share_of_prompts() -> None:
    found = replica_of(request("llama3_70b"), tp=4, prompts=8, batch=64)
    assert found is not None
    assert found.batch == 64
    assert found.requests_per_s * 300 * found.tpot_s == pytest.approx(found.batch)
    assert 0 < found.prefill_share < 1
    assert found.tpot_s > found.decode_step_s


def test_software_that_reaches_half_takes_twice_as_long() -> None:
    whole, half = (replica_of(request(share=share), tp=1, prompts=4, batch=32) for share in (1.0, 0.5))
    assert whole is not None
    assert half is not None
    assert half.requests_per_s == pytest.approx(whole.requests_per_s / 2)
    assert half.tpot_s == pytest.approx(whole.tpot_s * 2)


def test_of_experts_a_full_batch_touches_all_and_a_lone_token_two() -> None:
    stage = Stage(request("mixtral_8x7b"), tp=8, pp=1)
    alone, many = stage.decode(1.0, 0.0).memory_s, stage.decode(64.0, 0.0).memory_s
    assert 3 < many / alone < 4


def test_expert_parallel_ranks_have_their_part_of_the_experts_and_all_of_the_rest() -> None:
    """Mixtral's 32 layers have 8 experts of 3 × 4,096 × 14,336 each."""
    model = request("mixtral_8x7b").model
    experts = 32 * 8 * 3 * 4096 * 14336
    rest = parameters(model).total - experts
    assert footprint(model, Software(), 1, 1, ep=8).weights_bytes == pytest.approx(2 * (rest + experts / 8))
    whole, cut = (footprint(model, Software(), 1, 1, ep).kv_bytes_per_token for ep in (1, 8))
    assert whole == cut, "requests are each rank's own"


def test_expert_parallel_ranks_compute_their_part_and_read_their_own_requests() -> None:
    asked = request("mixtral_8x7b")
    alone, together = Stage(asked, 1, 1), Stage(asked, 1, 1, ep=8)
    one, all_of_them = alone.decode(64.0, 1000.0), together.decode(512.0, 1000.0)
    assert all_of_them.compute_s == pytest.approx(one.compute_s)
    assert all_of_them.memory_s < one.memory_s, "an eighth of the experts and as many requests"
    assert (one.exchange_s, all_of_them.exchange_s > 0) == (0.0, True)


def test_what_no_node_holds_is_served_by_experts_on_several() -> None:
    found = serve(request("deepseek_v3", "h100_sxm", requests_per_day=1e8, precision="fp8"))
    assert found.replica.ep > 8
    assert found.replica.gpus == found.replica.ep
    assert found.nodes % (found.replica.ep // 8) == 0


def test_what_one_node_cannot_hold_is_served_in_stages() -> None:
    found = serve(request("llama3_405b", "h100_sxm", requests_per_day=1e5))
    assert (found.replica.tp, found.replica.pp, found.nodes % 2) == (8, 2, 0)
    assert serve(request("llama3_405b", "h200", requests_per_day=1e5)).replica.pp == 1


# ---- properties -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(loads, st.floats(1.01, 20))
def test_more_requests_are_never_cheaper(asked: ServingRequest, more: float) -> None:
    load = replace(asked.load, requests_per_day=asked.load.requests_per_day * more)
    less, many = usd_per_day(asked), usd_per_day(replace(asked, load=load))
    assert (less is None) == (many is None)
    assert less is None or many is None or many >= less


@settings(max_examples=40, deadline=None)
@given(loads, st.floats(1.01, 5))
def test_longer_answers_are_never_cheaper(asked: ServingRequest, longer: float) -> None:
    less = usd_per_day(asked)
    many = usd_per_day(replace(asked, load=replace(asked.load, tokens_out=asked.load.tokens_out * longer)))
    assert less is None or many is None or many >= less


@settings(max_examples=20, deadline=None)
@given(loads, st.floats(1.01, 5))
def test_longer_prompts_and_busier_peaks_are_never_cheaper(asked: ServingRequest, more: float) -> None:
    less, load = usd_per_day(asked), asked.load
    for harder in (
        replace(load, tokens_in=load.tokens_in * more),
        replace(load, peak_to_mean=load.peak_to_mean * more),
    ):
        many = usd_per_day(replace(asked, load=harder))
        assert less is None or many is None or many >= less


@settings(max_examples=30, deadline=None)
@given(loads)
def test_targets_memory_and_the_busiest_time_are_kept(asked: ServingRequest) -> None:
    if usd_per_day(asked) is None:
        return
    found = serve(asked)
    load, replica, machine = asked.load, found.replica, asked.machine
    assert load.ttft_s is None or replica.ttft_s <= load.ttft_s * (1 + 1e-9)
    assert load.tpot_s is None or replica.tpot_s <= load.tpot_s * (1 + 1e-9)
    assert replica.free_bytes >= -1
    assert replica.weights_bytes + replica.kv_bytes <= asked.memory_bytes * asked.software.memory_share + 1
    assert found.most_requests_per_s >= load.peak_requests_per_s * (1 - 1e-6)
    assert found.gpus == found.nodes * machine.gpus_per_node >= found.replicas * replica.gpus
    assert found.busy_share <= 1 / load.peak_to_mean * (1 + 1e-6)
    assert found.usd_per_day == pytest.approx(found.gpus * 2.0 * 24)
    assert found.usd_per_million_tokens * load.tokens_per_day == pytest.approx(found.usd_per_day * 1e6)


@settings(max_examples=20, deadline=None)
@given(loads, st.floats(0.1, 0.9))
def test_a_stricter_target_is_never_cheaper(asked: ServingRequest, share: float) -> None:
    free = replace(asked, load=replace(asked.load, ttft_s=None, tpot_s=None))
    loose = usd_per_day(free)
    assert loose is not None
    tpot_s = serve(free).replica.tpot_s
    strict = usd_per_day(replace(free, load=replace(free.load, tpot_s=tpot_s * share)))
    assert strict is None or strict >= loose


# ---- refusals ---------------------------------------------------------------------------------


def test_a_model_too_large_says_what_would_do() -> None:
    small = replace(request("llama3_405b", "a100_40gb"), memory_bytes=2e9)
    with pytest.raises(
        ConfigError, match=r"serve=llama3_405b: 812 GB of weights in bf16 .* no replica of up to 128"
    ):
        serve(small)


@pytest.mark.parametrize(("name", "value"), [("tpot_s", 1e-3), ("ttft_s", 2e-3)])
def test_a_target_out_of_reach_names_the_least_that_is_in_it(name: str, value: float) -> None:
    asked = request("llama3_70b", **{name: value})
    with pytest.raises(ConfigError, match=rf"serve\.{name}={value:g}: llama3_70b on NVIDIA H100") as refused:
        serve(asked)
    least = float(str(refused.value).split(f"set serve.{name}=")[1].split()[0])
    assert serve(replace(asked, load=replace(asked.load, **{name: least}))).replicas >= 1
