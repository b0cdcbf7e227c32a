"""What a plan remarks on: epochs, years, goodput, storage, and a model that the job does not build."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.price import ownership
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.plan.remarks import MOST_EPOCHS, MOST_PUBLISHED_GPUS
from tests.unit.config.test_conf import composed

SEVENTY = ("job=llama3_70b", "cluster=dgx_h100", "cluster.nodes=64")
LARGEST = (*SEVENTY, "model=llama3_405b", "cluster.nodes=512", "job.global_batch=4096")


def planned(*words: str, corpus_tokens: int | None = None) -> Plan:
    return make_plan(composed(*words), "/job.py", "/", {}, corpus_tokens=corpus_tokens)


def said(plan: Plan) -> str:
    return " | ".join(plan.remarks)


def test_a_plan_that_nothing_is_wrong_with_has_no_remark() -> None:
    plan = planned(*SEVENTY, "job.steps=1000", corpus_tokens=10**13)
    assert plan.remarks == ()
    assert "remarks" not in str(plan)


def test_many_epochs_of_a_small_corpus_are_remarked_on_and_four_are_not() -> None:
    plan = planned(*SEVENTY, corpus_tokens=31_500_000)
    assert "4.19T tokens are 133,153 epochs of job.corpus, which has 31.5M: beyond 4" in said(plan)
    assert plan.corpus_tokens == 31_500_000
    tokens = plan.prediction.tokens
    assert tokens is not None
    assert "epochs" not in said(planned(*SEVENTY, corpus_tokens=-(-tokens // MOST_EPOCHS)))
    assert "epochs" not in said(planned(*SEVENTY)), "nothing is known of a corpus that nobody has looked at"


def test_a_run_of_years_is_remarked_on() -> None:
    assert re.search(
        r"the run takes 1,\d\d\d\.\d days, over a year", said(planned(*SEVENTY, "cluster.nodes=4"))
    )
    assert "over a year" not in said(planned(*SEVENTY))


def test_little_goodput_is_remarked_on() -> None:
    slow = planned(*LARGEST, "recovery.gpu_hours_per_failure=5000")
    assert slow.prediction.forecast is not None
    assert slow.prediction.forecast.goodput < 0.8
    assert "more than a fifth of the time" in said(slow)
    assert "goodput" not in said(planned(*LARGEST))


def test_checkpoints_say_what_they_ask_of_the_storage() -> None:
    plan = planned(*LARGEST)
    run = plan.prediction.forecast
    assert run is not None
    assert run.checkpoint_bytes == pytest.approx(14 * 405.8e9, rel=0.001)
    assert run.storage_bytes_per_s == pytest.approx(run.checkpoint_bytes / run.checkpoint_every_s)
    assert "10.1 GB/s (cluster.storage_bytes_per_s is not set)" in " ".join(str(plan).split())
    assert "checkpoints need 10.1 GB/s of storage" in said(plan)
    assert plan.to_json()["prediction"]["forecast"]["storage_bytes_per_s"] == run.storage_bytes_per_s
    one = planned(*SEVENTY, "cluster.nodes=1", "model=llama3_8b", "deepspeed=zero3")
    assert "  storage " not in str(one), "one node has its own disk"


def test_checkpoints_are_no_oftener_than_the_storage_takes_them() -> None:
    free, bounded = planned(*LARGEST), planned(*LARGEST, "cluster.storage_bytes_per_s=2e9")
    assert free.prediction.forecast is not None
    assert bounded.prediction.forecast is not None
    assert bounded.prediction.forecast.storage_bytes_per_s <= 2e9 * (1 + 1e-9)
    assert bounded.prediction.forecast.goodput < free.prediction.forecast.goodput
    assert "2 GB/s (of 2 GB/s, cluster.storage_bytes_per_s)" in " ".join(str(bounded).split())
    assert "of storage that all nodes share" not in said(bounded)
    ample = planned(*LARGEST, "cluster.storage_bytes_per_s=1e13")
    assert ample.prediction == free.prediction, "more than the nodes write makes nothing faster"
    with pytest.raises(ConfigError, match=r"cluster.storage_bytes_per_s=0: must be 1 or more"):
        planned(*LARGEST, "cluster.storage_bytes_per_s=0")


def test_a_model_that_the_job_does_not_build_is_planned_and_remarked_on() -> None:
    words = ("job=pretrain", "cluster=gcp_a3_mega", "deepspeed=zero3", "layout.recompute=true")
    remark = said(planned(*words, "model=mixtral_8x7b"))
    assert (
        "model=mixtral_8x7b has experts=8, and job 'pretrain' builds experts=1 only: 'run' refuses" in remark
    )
    assert "builds" not in said(planned(*words, "model=llama3_8b"))


def test_a_host_that_waits_for_every_kernel_is_remarked_on_with_what_it_costs() -> None:
    usual, waiting = planned(*SEVENTY), planned(*SEVENTY, "+env.CUDA_LAUNCH_BLOCKING=1")
    assert usual.prediction.step_time_s is not None
    assert waiting.prediction.step_time_s is not None
    assert waiting.prediction.step_time_s > 1.05 * usual.prediction.step_time_s
    assert re.search(
        r"CUDA_LAUNCH_BLOCKING makes .* the host and what ranks send take [\d.]+% of a step; set it to 0",
        said(waiting),
    )
    assert "CUDA_LAUNCH_BLOCKING" not in said(planned(*SEVENTY, "+env.CUDA_LAUNCH_BLOCKING=0"))
    of_the_job = planned(*SEVENTY, "+job.env.CUDA_LAUNCH_BLOCKING=1")
    assert of_the_job.prediction.step_time_s == waiting.prediction.step_time_s


def test_hiding_what_experts_send_beside_a_second_forward_pass_is_remarked_on() -> None:
    words = (
        "job=llama3_70b",
        "model=mixtral_8x7b",
        "model.layers=8",
        "job.supports=null",
        "cluster=dgx_h100",
        "cluster.nodes=4",
    )
    words += (
        "job.framework=megatron",
        "deepspeed=zero1",
        "layout.ep=8",
        "layout.tp=2",
        "layout.ep_overlap=true",
    )
    assert "Megatron-Core does not hide" in said(planned(*words, "layout.recompute=true"))
    assert "Megatron-Core" not in said(planned(*words, "layout.recompute=false", "layout.selective=true"))


def test_writing_to_the_storage_day_and_night_is_remarked_on() -> None:
    assert "checkpoints take 100% of the 1 GB/s that the storage takes" in said(
        planned(*SEVENTY, "cluster.storage_bytes_per_s=1e9")
    )
    assert "day and night" not in said(planned(*SEVENTY, "cluster.storage_bytes_per_s=1e10"))


def test_a_script_that_is_handed_a_deepspeed_file_trains_with_nothing_else() -> None:
    words = (*SEVENTY, "job.supports=null", "job.framework=megatron", "deepspeed=zero1", "layout.tp=8")
    remark = said(planned(*words, "layout.pp=4"))
    assert "job.framework=megatron, and the script of job 'llama3_70b' takes a DeepSpeed file" in remark
    assert "DeepSpeed file" not in said(planned(*SEVENTY))


def test_a_fabric_that_reaches_no_other_node_is_remarked_on() -> None:
    assert "fabric=loopback reaches no other node: planned as if 64 nodes spoke TCP" in said(
        planned(*SEVENTY, "fabric=loopback")
    )
    assert "loopback" not in said(planned(*SEVENTY, "fabric=ethernet"))


def test_more_gpus_than_any_published_run_are_remarked_on() -> None:
    """The largest is that of the tables which the planner is measured beside."""
    with (Path(__file__).parents[3] / "benchmarks" / "planner" / "fit.csv").open() as table:
        most = max(int(row["gpus"]) for row in csv.DictReader(table))
    assert most == MOST_PUBLISHED_GPUS
    words = (*LARGEST, "job.global_batch=6144")
    assert "16,384 GPUs: no published run" in said(
        planned(*LARGEST, "cluster.nodes=2048", "job.global_batch=16384")
    )
    assert "no published run" not in said(planned(*words, "cluster.nodes=768"))


def test_a_written_layout_that_mostly_communicates_is_told_of_the_search() -> None:
    slow = planned(*SEVENTY, "fabric=ethernet", "cluster.nics_per_node=1", "cluster.nic_bits_per_s=25e9")
    assert re.search(
        r"communication takes [5-9]\d(\.\d)?% of a step: layout=auto looks for .*, and says what tensor",
        said(slow),
    )
    assert "communication" not in said(planned(*SEVENTY))


def test_the_price_of_a_past_or_unknown_day_is_remarked_on() -> None:
    reserved = ("job=llama3_8b", "cluster=aws_p5", "cluster.price.kind=reserved")
    past = planned(*reserved, "cluster.price.begins=2026-01-01")
    assert "the reserved price held until 2025-01-01, which is past" in said(past)
    assert "reserved until 2025-01-01" in str(past)
    assert "held until" not in said(planned(*reserved, "cluster.price.begins=2024-06-01"))
    assert "of which day the price is, nobody recorded" in said(planned("job=llama3_8b", "cluster=aws_p5"))
    assert "nobody recorded" not in said(
        planned("job=llama3_8b", "cluster=aws_p5", "cluster.price.as_of=2026-11")
    )
    with pytest.raises(ConfigError, match=r"cluster.price.reserved_until=soon: is no date"):
        planned("job=llama3_8b", "cluster=aws_p5", "cluster.price.reserved_until=soon")


def test_a_price_that_nobody_asks_is_not_called_a_list_price() -> None:
    assumed = str(planned("job=llama3_8b", "cluster=gcp_a4"))
    assert " assumed (" in assumed
    assert "assumption: Google lists no on-demand price" in " ".join(assumed.split())
    assert "list price:" not in assumed
    assert "on demand (" not in assumed
    owned = " ".join(str(planned("job=llama3_8b", "cluster=dgx_h100")).split())
    assert "owned, without interest on the capital, network, storage and the building itself" in owned
    for quality, word in (("quote", "quote: "), ("list", "list price: "), ("estimate", "estimate: ")):
        plan = planned("job=llama3_8b", "cluster=aws_p5", f"cluster.price.quality={quality}")
        assert plan.prediction.costs[0].source.startswith(word)


def test_energy_and_its_dollars_are_of_the_same_power() -> None:
    """An hour in use of owned machines pays the power at work that the plan's energy is of."""
    for name in ("dgx_a100", "dgx_h100", "dgx_h200", "dgx_b200"):
        config = composed("job=llama3_8b", f"cluster={name}", "cluster.nodes=4")
        plan = make_plan(config, "/job.py", "/", {})
        energy, price = plan.prediction.energy, config.cluster.price
        assert energy is not None
        assert energy.energy_kwh is not None
        assert price.electricity_usd_per_kwh is not None
        power_usd = ownership(price, config.gpu).power_usd_per_hour * plan.prediction.costs[0].gpu_hours
        assert power_usd == pytest.approx(energy.energy_kwh * price.electricity_usd_per_kwh, rel=1e-3)
