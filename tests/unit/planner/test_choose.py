"""``layout=auto``: the choice lands in the configuration as if typed, and what was typed stays."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import deepspeed.runtime.config as deepspeed_config
import pytest

from orchestrator.cli.cli import main
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.plan import make_plan, resolved_deepspeed
from orchestrator.planner.auto_layout import Choice, choose
from tests.support.compositions import composition, config_of

LLAMA_8B = ("job=llama3_8b", "cluster=azure_nd_h100_v5")
LLAMA_70B = ("job=llama3_70b", "cluster=azure_nd_h100_v5", "cluster.nodes=16")
# A script that can do everything, which the project's own jobs cannot.
ABLE = ("job.supports=null", "model=llama3_70b", "job.global_batch=1024")
JOBS = {
    "8B": LLAMA_8B,
    "70B": LLAMA_70B,
    "70B on one node": ("job=llama3_70b", "cluster=azure_nd_h100_v5", "cluster.nodes=1"),
    "8B, one node, two ranks": (*LLAMA_8B, "job.ranks=2", "cluster.nodes=1"),
    "70B, everything": (*LLAMA_70B, *ABLE),
    "70B, tensor parallel": (*LLAMA_70B, *ABLE, "layout.tp=8"),
    "70B, pipeline": (*LLAMA_70B, *ABLE, "layout.pp=8"),
    "70B, fp16": (*LLAMA_70B, "job.precision=fp16"),
    "accumulation in the job": (*LLAMA_8B, "job.global_batch=null"),
}


@functools.cache
def chosen(*words: str) -> Choice:
    words = (*words, "layout=auto")
    return choose(composition(*words), words)


def test_layout_is_a_group_whose_keys_stay_keys() -> None:
    assert not config_of().layout.auto
    assert config_of("layout=auto").layout.auto
    assert config_of("layout.tp=2", "job.supports=null").layout.tp == 2
    assert config_of("job=llama3_8b").layout.recompute
    assert config_of("job=llama3_8b", "layout=auto").layout.recompute


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS)
def test_the_configuration_has_the_layout_that_was_found(words: tuple[str, ...]) -> None:
    choice = chosen(*words)
    best = choice.search.best
    assert derive_layout(choice.config) == best.layout
    assert Zero.from_config(choice.config.deepspeed) == best.sharding.zero
    plan = make_plan(choice.config, "train.py", "/", {})
    assert plan.memory == best.memory
    assert plan.prediction.step_time_s == pytest.approx(best.step_time_s)


@pytest.mark.parametrize("given", [(), ("job.micro_batch=1",), ("deepspeed=zero3",)])
def test_what_is_said_of_another_script_is_what_its_words_find(given: tuple[str, ...]) -> None:
    """The words replace those of the same keys, as a person would type them."""
    choice = chosen(*LLAMA_70B, *given)
    said, words = choice.search.divided, choice.search.divided_by
    assert said is not None
    kept = tuple(word for word in given if not any(word.split("=")[0] == new.split("=")[0] for new in words))
    found = chosen(*LLAMA_70B, *kept, *words).search.best
    assert (found.layout, found.step_time_s) == (said.layout, pytest.approx(said.step_time_s))
    assert found.layout.tp * found.layout.pp > 1
    assert chosen(*LLAMA_70B, "layout.tp=1", "layout.pp=1").search.divided is None


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS)
def test_the_overrides_make_the_same_without_a_search(words: tuple[str, ...]) -> None:
    choice = chosen(*words)
    typed = config_of(*words, *choice.overrides)
    typed.layout.auto = True
    assert typed == choice.config


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS)
def test_deepspeed_takes_the_configuration(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(*words)
    layout = derive_layout(choice.config)
    monkeypatch.setattr(deepspeed_config.dist, "get_rank", lambda: 0)
    ranks = SimpleNamespace(get_data_parallel_world_size=lambda: layout.dp)
    parsed = deepspeed_config.DeepSpeedConfig(resolved_deepspeed(choice.config, layout), mpu=ranks)
    assert parsed.zero_optimization_stage == layout.zero_stage
    assert parsed.gradient_accumulation_steps == layout.accumulation
    assert parsed.zero_config.zero_hpz_partition_size == choice.search.best.sharding.zero.hpz
    offloads = parsed.zero_config.offload_optimizer is not None
    assert offloads == choice.search.best.sharding.zero.offload_optimizer
    # else it would refuse the script's own optimizer
    assert parsed.zero_force_ds_cpu_optimizer == (not offloads)


def test_arguments_follow_the_choice() -> None:
    choice = chosen(*LLAMA_8B)
    best = choice.search.best.layout
    assert choice.config.job.args["activation_checkpointing"] == best.recompute
    assert not best.recompute  # unlike the job's own file, which is not the command line


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ("layout.tp=4", lambda layout: layout.tp == 4),
        ("layout.recompute=true", lambda layout: layout.recompute),
        ("job.micro_batch=2", lambda layout: layout.micro_batch == 2),
        ("job.gradient_accumulation=4", lambda layout: layout.accumulation == 4),
        ("deepspeed=zero2", lambda layout: layout.zero_stage == 2),
        ("deepspeed.zero_optimization.stage=1", lambda layout: layout.zero_stage == 1),
        ("deepspeed.train_micro_batch_size_per_gpu=2", lambda layout: layout.micro_batch == 2),
    ],
)
def test_what_was_typed_is_kept(given: str, holds: Any) -> None:
    choice = chosen(*LLAMA_70B, *ABLE, given)
    assert holds(derive_layout(choice.config))
    assert choice.kept == (given,)
    assert all(holds(other.candidate.layout) for other in choice.search.runners_up)
    assert not [word for word in choice.overrides if word.startswith(given.partition("=")[0] + "=")]


def test_keys_of_deepspeed_that_are_not_its_layout_stay_too() -> None:
    assert chosen(*LLAMA_8B, "deepspeed.gradient_clipping=0.5").config.deepspeed["gradient_clipping"] == 0.5


def test_a_script_is_given_only_what_it_can_do() -> None:
    for choice in (chosen(*LLAMA_70B), chosen(*LLAMA_70B, "job.supports=[sp]")):
        layouts = [choice.search.best.layout, *(other.candidate.layout for other in choice.search.runners_up)]
        assert {(layout.tp, layout.pp, layout.ep) for layout in layouts} == {(1, 1, 1)}
    assert {layout.sp for layout in layouts} > {1}


def test_recomputation_is_left_alone_where_the_script_does_not_ask_for_it() -> None:
    choice = chosen(*LLAMA_8B, "job.args.activation_checkpointing=true")
    assert choice.search.best.layout.recompute  # as the job's file has it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), r"layout=auto: no step time.*CPU core.*matmul_efficiency.fp32.*calibrate"),
        (("job=script", "job.script=x.py", "cluster=azure_nd_h100_v5"), r"without a model.*model="),
        ((*LLAMA_8B, "layout.tp=2"), r"layout.tp=2: job 'llama3_8b' cannot do it"),
        ((*LLAMA_70B, *ABLE, "layout.tp=16"), r"model.kv_heads=8: not divisible by layout.tp=16"),
        ((*LLAMA_70B, *ABLE, "layout.pp=2", "deepspeed=zero3"), r"layout.pp=2.*ZeRO-0 and ZeRO-1 only"),
        (
            ("job=llama3_70b", "cluster=azure_nd_a100_v4", "cluster.nodes=1", "deepspeed=zero2"),
            r"lacks .* GB per GPU",
        ),
        ((*LLAMA_8B, "job.micro_batch=0"), r"job.micro_batch=0: must be greater than 0"),
    ],
)
def test_refusals(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        chosen(*words)
    assert "\n" not in str(caught.value)


def test_the_plan_prints_choice_and_runners_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LLAMA_8B, "layout=auto", "job.micro_batch=1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    choice = chosen(*LLAMA_8B, "job.micro_batch=1")
    assert f"of {choice.search.considered:,} layouts" in printed
    assert "given: job.micro_batch=1" in printed
    assert " ".join(choice.overrides) in printed
    assert "What it won against" in printed


def test_a_run_gets_the_choice_and_prints_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Config] = []
    monkeypatch.setattr(
        "orchestrator.driver.run.run", lambda config, console, trust: started.append(config) or 0
    )
    assert main([*LLAMA_70B, "layout=auto"]) == 0
    choice = chosen(*LLAMA_70B)
    assert started == [choice.config]
    assert " ".join(choice.overrides) in " ".join(capsys.readouterr().out.split())


def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LLAMA_70B, "layout=auto", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    found, choice = body["search"], chosen(*LLAMA_70B)
    assert (found["considered"], found["fitting"]) == (choice.search.considered, choice.search.fitting)
    assert found["best"]["layout"] == body["layout"]
    assert tuple(found["overrides"]) == choice.overrides
    assert [other["why"] for other in found["runners_up"]] == [
        other.why for other in choice.search.runners_up
    ]
    assert "search" not in json.loads(_json_of_a_given_layout(capsys))


def _json_of_a_given_layout(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["plan", *LLAMA_70B, "--json"]) == 0
    return capsys.readouterr().out


def test_each_point_of_a_sweep_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-m", *LLAMA_70B[:2], "cluster.nodes=8,16", "layout=auto", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert len(points) == 2 or len(points["points"]) == 2
