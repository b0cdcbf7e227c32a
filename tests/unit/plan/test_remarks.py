"""What a plan remarks on: epochs, years, goodput, storage, and a model that the job does not build."""

from __future__ import annotations

import re

import pytest

from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.plan.remarks import MOST_EPOCHS
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
