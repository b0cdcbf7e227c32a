"""Plans as a person reads them: golden texts, and what every text says."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.cli.show.plan import show_plan
from orchestrator.plan.perf.calibration import Calibration
from orchestrator.plan.plan import Plan
from orchestrator.text import bytes_in_words, seconds_in_words, usd
from tests.support.golden_text import assert_golden
from tests.unit.config.test_conf import composed
from tests.unit.plan.test_prediction import CLUSTERS, GPUS, config, cpu, plan_of


def words(plan: Plan) -> str:
    return " ".join(str(plan).split())


def test_a_plan_on_gpus_is_golden() -> None:
    text = str(plan_of(config(*GPUS)))
    assert_golden("shown_llama3_70b_on_azure_nd_h100_v5.txt", f"{text}\n")


def test_a_calibrated_plan_on_processors_is_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration(compute_factor=3.0, overhead_s=0.25, runs=4, fitted="4 runs of local")
    assert_golden("shown_tiny_gpt_on_local_calibrated.txt", f"{plan_of(cpu(monkeypatch), calibration)}\n")


@pytest.mark.parametrize("overrides", [(), ("cluster=dgx_h100",), ("cluster=aws_p5",), ("job.steps=null",)])
def test_no_line_is_wider_than_the_page_and_none_is_cut(overrides: tuple[str, ...]) -> None:
    text = str(plan_of(config(*GPUS, *overrides)))
    assert max(map(len, text.splitlines())) <= 110
    assert "…" not in text


def test_shares_of_memory_and_of_a_step_are_of_the_whole() -> None:
    """Parts of less than a thousandth are left out of the step's."""
    plan = plan_of(config(*GPUS))
    text = str(plan)
    body = text[text.index("Memory per GPU") : text.index("length")]
    shares = [int(share) for share in re.findall(r"(\d+)%", body.replace("<1%", ""))]
    assert plan.memory is not None
    assert plan.prediction.step_time_s is not None
    assert 190 <= sum(shares) <= 205
    totals = re.findall(r"total +([\d.]+ \w+)", body)
    assert sorted(totals) == sorted(
        [bytes_in_words(plan.memory.total_bytes), seconds_in_words(plan.prediction.step_time_s)]
    )
    for name in ("matrix products", "recomputation", "data parallel", "buffers, context"):
        assert name in body


@pytest.mark.parametrize(("cluster", "kinds"), CLUSTERS.items())
def test_every_way_of_paying_is_named_with_its_range(cluster: str, kinds: list[str]) -> None:
    plan = plan_of(config(*GPUS[:1], f"cluster={cluster}", GPUS[2]))
    text = words(plan)
    called = {"list": "on demand", "reserved": "reserved", "spot": "spot", "owned": "owned"}
    for cost in plan.prediction.costs:
        assert cost.paid.partition(" until ")[0] == called[cost.kind]
        assert f"{usd(cost.usd)} {cost.paid} ({usd(cost.low_usd)} to {usd(cost.high_usd)})" in text
        assert " ".join(cost.source.split()) in text
    assert [cost.kind for cost in plan.prediction.costs] == kinds


def test_a_brief_plan_leaves_out_what_an_engineer_asks_for() -> None:
    plan, stream = plan_of(config(*GPUS)), io.StringIO()
    show_plan(plan, Console(width=110, file=stream), brief=True)
    brief = stream.getvalue()
    for word in ("Memory per GPU", "Time of a step", "command", "Environment", "energy", "faults"):
        assert word in str(plan)
        assert word not in brief
    for word in ("memory", "speed", "bound by", "run", "cost", "basis"):
        assert f"  {word}" in brief


def test_the_published_error_is_said_of_the_planners_own_constants_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "published runs like it" in words(plan_of(config(*GPUS)))
    calibration = Calibration(runs=4, fitted="4 runs of local")
    text = words(plan_of(cpu(monkeypatch), calibration))
    assert "calibrated on 4 runs of local" in text
    assert "published" not in text


@pytest.mark.parametrize(
    ("kwh", "shown"),
    [
        (0.012, "0.012 kWh"),
        (57.7, "57.7 kWh"),
        (2418, "2,418 kWh"),
        (57_900, "58 MWh"),
        (1_441_000, "1.44 GWh"),
    ],
)
def test_energy_is_in_the_unit_of_its_size(kwh: float, shown: str) -> None:
    plan = plan_of(config(*GPUS))
    assert plan.prediction.energy is not None
    energy = replace(plan.prediction.energy, energy_kwh=kwh)
    assert f"energy {shown}; peak" in words(replace(plan, prediction=replace(plan.prediction, energy=energy)))


def test_the_sites_limit_is_shown_where_there_is_one() -> None:
    limited = config(*GPUS, "cluster.power_limit_w=1.5e6")
    assert "of 1.5 MW" in words(plan_of(limited))
    assert "MW" not in words(plan_of(config(*GPUS)))


def test_a_plan_without_a_model_says_so() -> None:
    text = words(plan_of(composed("job=script", "cluster=dgx_h100", "job.script=train.py")))
    assert "not described, so memory and time are not predicted" in text
    assert "as long as the script runs" in text
    assert "not predicted: the model is not described" in text


def test_offload_and_host_memory_are_shown_apart() -> None:
    """What lies on the host is none of the accelerator's parts."""
    made = config("job=llama3_8b", "cluster=dgx_h100", "deepspeed=zero3_offload")
    plan = plan_of(made)
    assert plan.memory is not None
    assert plan.memory.host_bytes > 0
    bare = replace(plan, memory=replace(plan.memory, host_bytes=0))
    assert str(bare) == str(plan)
    assert "ZeRO-3 with offload" in words(plan)
