"""What a plan predicts of the whole run: figures that agree with each other, their units, and where they
end."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.prediction import BOUNDS
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.perf.baseline import group_of, nominal
from orchestrator.plan.perf.calibration import Calibration
from orchestrator.plan.perf.likeness import kind_of, likeness
from orchestrator.plan.plan import Plan, make_plan
from tests.unit.config.test_conf import composed

GPUS = ("job=llama3_70b", "cluster=azure_nd_h100_v5", "cluster.nodes=64")
# A plan by each of these ways, and what costs it has.
CLUSTERS = {"azure_nd_h100_v5": ["list"], "aws_p5": ["list", "reserved", "spot"], "dgx_h100": ["owned"]}


@functools.cache
def config(*overrides: str) -> Config:
    return composed(*overrides)


def plan_of(made: Config, calibrated: Calibration | None = None) -> Plan:
    calibrations = {group_of(made, derive_layout(made)): calibrated} if calibrated else {}
    return make_plan(made, "/job.py", "/", {}, calibrations)


def cpu(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr("orchestrator.config.load.hardware.local_gpus", list)
    return composed("job=tiny_gpt", "job.steps=100")


@pytest.mark.parametrize("cluster", ["azure_nd_h100_v5", "aws_p5", "gcp_a3_mega", "dgx_h100", "gcp_a4"])
@pytest.mark.parametrize("job", ["llama3_8b", "llama3_70b"])
def test_figures_agree_with_each_other(cluster: str, job: str) -> None:
    made = config(f"job={job}", f"cluster={cluster}", "cluster.nodes=16", "job.steps=10000")
    plan = plan_of(made)
    found, run, model = plan.prediction, plan.prediction.forecast, made.model
    assert run is not None
    assert model is not None
    assert found.step is not None
    assert found.step_time_s == found.step.total_s
    assert found.tokens == 10_000 * plan.layout.global_batch * model.seq_len
    assert found.tokens_per_s == pytest.approx(plan.layout.global_batch * model.seq_len / found.step_time_s)
    assert found.tokens_per_s_per_gpu == pytest.approx(found.tokens_per_s / plan.layout.ranks)
    assert found.hours == run.wall_hours >= run.work_hours == pytest.approx(10_000 * found.step_time_s / 3600)
    assert found.gpu_hours == pytest.approx(found.hours * plan.layout.ranks)
    assert found.energy is not None
    assert found.energy.energy_kwh == pytest.approx(found.energy.mean_power_w * found.hours / 1000)
    assert found.mfu is not None
    assert found.hfu is not None
    assert 0.1 < found.mfu <= found.hfu < 0.8
    assert (found.hfu > found.mfu) == plan.layout.recompute


@pytest.mark.parametrize(("cluster", "kinds"), CLUSTERS.items())
def test_costs_are_the_chosen_kinds_first_and_within_their_range(cluster: str, kinds: list[str]) -> None:
    plan = plan_of(config("job=llama3_8b", f"cluster={cluster}", "cluster.nodes=8", "job.steps=100000"))
    found = plan.prediction
    assert [cost.kind for cost in found.costs] == kinds
    assert found.cost_usd == found.costs[0].usd
    assert found.gpu_hours == found.costs[0].gpu_hours
    assert found.costs[0].usd_per_gpu_hour == plan.price.usd_per_gpu_hour
    for cost in found.costs:
        assert cost.usd == pytest.approx(cost.gpu_hours * cost.usd_per_gpu_hour)
        assert cost.low_usd < cost.usd < cost.high_usd
        assert cost.source


def test_reclaimed_spot_nodes_take_more_hours_and_less_money() -> None:
    sizes = ("job=llama3_8b", "cluster=aws_p5", "cluster.nodes=8", "job.steps=100000")
    made = config(*sizes, "cluster.price.spot_node_hours_per_interruption=200")
    spot = next(cost for cost in plan_of(made).prediction.costs if cost.kind == "spot")
    calm = next(cost for cost in plan_of(config(*sizes)).prediction.costs if cost.kind == "spot")
    on_demand = plan_of(made).prediction
    assert spot.gpu_hours > on_demand.gpu_hours == pytest.approx(calm.gpu_hours)
    assert calm.usd < spot.usd < on_demand.cost_usd
    chosen = plan_of(
        config(*sizes, "cluster.price.spot_node_hours_per_interruption=200", "cluster.price.kind=spot")
    )
    assert chosen.prediction.gpu_hours == spot.gpu_hours
    assert chosen.prediction.costs[0] == spot


@given(st.floats(0.001, 0.5), st.integers(1, 10**6))
def test_the_range_is_as_wide_as_the_planner_is_wrong(error: float, steps: int) -> None:
    """Where nothing is on record of runs like it."""
    made = config(*GPUS)
    unknown = replace(made.planner, step_time_error=error, evidence=[])
    made = replace(made, planner=unknown, job=replace(made.job, steps=steps))
    found = plan_of(made).prediction
    (cost, *_), run = found.costs, found.forecast
    assert run is not None
    assert cost.low_usd == pytest.approx(run.gpu_hours_low * cost.usd_per_gpu_hour / (1 + error))
    assert cost.high_usd == pytest.approx(run.gpu_hours_high * cost.usd_per_gpu_hour / (1 - error))
    assert cost.low_usd <= cost.usd <= cost.high_usd


def test_the_range_is_that_of_runs_like_it() -> None:
    made = config(*GPUS)
    plan = plan_of(made)
    found, run = plan.prediction, plan.prediction.forecast
    assert found.step_time_s is not None
    assert run is not None
    assert made.model is not None
    like = likeness(kind_of(made.model, "hopper", "bf16", plan.layout), made.planner)
    assert found.step is not None
    assert found.step.host_s > 0
    like = like.waiting(found.step.host_s / found.step.total_s)
    assert found.step_time_low_s == pytest.approx(like.low * found.step_time_s)
    assert found.step_time_high_s == pytest.approx(like.high * found.step_time_s)
    cost = found.costs[0]
    assert cost.low_usd == pytest.approx(run.gpu_hours_low * cost.usd_per_gpu_hour * like.low)
    assert cost.high_usd == pytest.approx(run.gpu_hours_high * cost.usd_per_gpu_hour * like.high)
    page = str(plan)
    assert "range" in page
    assert found.likeness in " ".join(page.split())
    unlike = plan_of(config(*GPUS[:1], "cluster=dgx_b200", "cluster.nodes=64")).prediction
    assert unlike.likeness.startswith("no published run like it: the nearest, of ")
    assert "in place of blackwell GPUs" in unlike.likeness


def test_a_rate_that_nobody_has_published_is_said_to_be_one() -> None:
    usual = plan_of(config(*GPUS)).prediction
    assert usual.best_published_mfu is None
    made = config(*GPUS)
    slow = [replace(one, mfu=0.1) for one in made.planner.best_published]
    found = plan_of(replace(made, planner=replace(made.planner, best_published=slow)))
    assert found.prediction.best_published_mfu == 0.1
    assert (
        "that MFU is above the best published of models about as wide on such a GPU in this precision, 10%:"
        " expect less" in " ".join(str(found).split())
    )


def test_a_plan_that_leaves_little_memory_says_how_far_off_such_plans_are() -> None:
    roomy = plan_of(config(*GPUS))
    assert roomy.memory is not None
    assert "tight:" not in str(roomy)
    tight = replace(roomy, gpu_memory_bytes=int(roomy.memory.total_bytes / 0.93))
    assert f"tight: published runs were {roomy.memory_error:.0%} off" in " ".join(str(tight).split())


def test_the_part_that_takes_longest_is_named() -> None:
    found = plan_of(config(*GPUS)).prediction
    assert found.step is not None
    assert BOUNDS.keys() == found.step.parts().keys()
    name, seconds = max(found.step.parts().items(), key=lambda part: part[1])
    assert found.bound_by == f"{BOUNDS[name]}, {seconds / found.step.total_s:.0%} of a step"
    slow = config(*GPUS, "cluster.nic_bits_per_s=1e9")
    assert str(plan_of(slow).prediction.bound_by).startswith("data parallel communication")


def test_interleaved_stages_shorten_the_bubble() -> None:
    sizes = (
        "job=llama3_70b",
        "cluster=dgx_h100",
        "cluster.nodes=8",
        "layout.tp=8",
        "layout.pp=4",
        "deepspeed=zero1",
    )
    plain, interleaved = (plan_of(config(*sizes, f"layout.vp={vp}", "job.supports=null")) for vp in (1, 5))
    before, after = plain.prediction.step, interleaved.prediction.step
    assert before is not None
    assert after is not None
    assert after.bubble_s == pytest.approx(before.bubble_s / 5)
    assert after.pp_s == pytest.approx(before.pp_s * 5)
    assert "pp 4 × vp 5" in str(interleaved)
    for vp, supports, words in (
        (3, "null", r"model.layers / layout.pp=20: not divisible by layout.vp=3"),
        (0, "null", r"layout.vp=0: must be greater than 0"),
        (2, "[tp,pp]", r"layout.vp=2: job 'llama3_70b' cannot do it"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan_of(config(*sizes, f"layout.vp={vp}", f"job.supports={supports}"))


def test_a_job_of_unknown_length_has_a_rate_and_no_cost() -> None:
    found = plan_of(config(*GPUS, "job.steps=null")).prediction
    assert found.step_time_s == plan_of(config(*GPUS)).prediction.step_time_s
    assert found.tokens_per_s is not None
    assert found.mfu is not None
    assert found.hours is found.gpu_hours is found.cost_usd is found.forecast is found.tokens is None
    assert found.costs == ()
    assert found.energy is not None
    assert found.energy.energy_kwh is None


def test_without_a_model_nothing_is_predicted_and_the_basis_says_why() -> None:
    plan = plan_of(config("job=script", "cluster=dgx_h100", "job.script=train.py", "job.steps=10"))
    found = plan.prediction
    assert plan.memory is None
    assert found.step is found.step_time_s is found.hours is found.cost_usd is found.mfu is None
    assert (found.steps, found.tokens, found.costs) == (10, None, ())
    assert found.basis == "the model is not described"
    assert found.energy is not None
    assert found.energy.peak_power_w > 0


def test_cpu_cores_are_predicted_after_a_calibration_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cpu(monkeypatch)
    before = plan_of(made)
    assert before.prediction.step_time_s is None
    assert before.memory is not None
    assert (
        before.prediction.basis
        == "no efficiency of fp32 is on record for CPU core; after a run, 'python -m orchestrator calibrate'"
        " finds it"
    )
    calibration = Calibration(compute_factor=3.0, overhead_s=0.25, runs=4, fitted="4 runs of local")
    after = plan_of(made, calibration).prediction
    expected = nominal(made, derive_layout(made))
    assert expected is not None
    assert expected.step is not None
    compute_s = expected.step.compute_s + expected.step.bubble_s
    assert after.step_time_s == pytest.approx(expected.step.total_s + 2 * compute_s + 0.25)
    assert after.basis == "calibrated on 4 runs of local"
    assert after.step_time_error is None  # of the published runs, which tell nothing here
    assert after.cost_usd is not None
    assert after.energy is None


def test_a_calibration_scales_what_it_was_fitted_to_and_nothing_else() -> None:
    made = config(*GPUS)
    plain, calibrated = (
        plan_of(made),
        plan_of(made, Calibration(compute_factor=2.0, communication_factor=3.0)),
    )
    before, after = plain.prediction.step, calibrated.prediction.step
    assert before is not None
    assert after is not None
    assert after.compute_s == pytest.approx(2 * before.compute_s)
    assert after.exposed_s == pytest.approx(3 * before.exposed_s)
    assert calibrated.memory == plain.memory
    other = config(*GPUS[:1], "cluster=aws_p5", GPUS[2])
    elsewhere = {group_of(made, derive_layout(made)): Calibration(compute_factor=2.0)}
    assert make_plan(other, "/job.py", "/", {}, elsewhere).prediction == plan_of(other).prediction


def test_constants_say_when_they_were_fitted_and_how_wrong_they_were() -> None:
    made = config(*GPUS)
    found = plan_of(made).prediction
    assert found.basis == f"planner's constants, fitted on {made.planner.fitted}"
    assert found.step_time_error == made.planner.step_time_error


def test_a_plan_above_the_sites_power_is_refused() -> None:
    assert plan_of(config(*GPUS, "cluster.power_limit_w=800e3")).prediction.energy is not None
    with pytest.raises(
        ConfigError, match=r"cluster.power_limit_w=700000 W.*cluster.nodes=64.*set cluster.nodes=58"
    ):
        plan_of(config(*GPUS, "cluster.power_limit_w=700e3"))


# Names whose value is a plain number: counts and shares.
NUMBERS = {
    "steps",
    "tokens",
    "tokens_per_step",
    "gpus",
    "interruptions",
    "interruptions_low",
    "interruptions_high",
}
NUMBERS |= {"mfu", "hfu", "goodput", "step_time_error", "best_published_mfu", "pue"}
UNITS = {"s", "w", "kwh", "bytes", "usd", "hours"}


def leaves(body: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(body, dict):
        for key, value in body.items():
            yield from leaves(value, key)
    elif isinstance(body, list | tuple):
        for value in body:
            yield from leaves(value, name)
    elif isinstance(body, int | float) and not isinstance(body, bool):
        yield name, body


@pytest.mark.parametrize("overrides", [(), ("cluster=dgx_h100",), ("job.steps=null",), ("cluster=aws_p5",)])
def test_every_number_of_the_json_has_its_unit_in_its_name(overrides: tuple[str, ...]) -> None:
    body = json.loads(json.dumps(plan_of(config(*GPUS, *overrides)).to_json(), allow_nan=False))
    found = [*leaves(body["prediction"]), *leaves(body["memory"]), *leaves(body["price"])]
    assert len(found) > 30
    assert {name for name, _ in found if name not in NUMBERS and not UNITS & set(name.split("_"))} == set()
    memory = body["memory"]
    on_host = memory.pop("host_bytes")
    assert on_host >= 0
    assert memory.pop("total_bytes") == sum(memory.values())


def test_tokens_of_a_step_are_the_models_or_as_the_job_says() -> None:
    counted = plan_of(config(*GPUS)).prediction.tokens_per_step
    assert counted is not None
    assert plan_of(config(*GPUS, f"job.tokens_per_step={counted}")).prediction.tokens_per_step == counted
    with pytest.raises(ConfigError, match=r"job\.tokens_per_step=7: but a global batch of .* leave job"):
        plan_of(config(*GPUS, "job.tokens_per_step=7"))
    with pytest.raises(ConfigError, match=r"job\.tokens_per_step"):
        plan_of(config(*GPUS, "job.tokens_per_step=0"))


def test_a_cluster_that_never_fails_is_still_json() -> None:
    body = plan_of(config(*GPUS, "recovery.gpu_hours_per_failure=inf")).to_json()
    assert json.loads(json.dumps(body, allow_nan=False))["prediction"]["forecast"]["interruptions"] == 0
