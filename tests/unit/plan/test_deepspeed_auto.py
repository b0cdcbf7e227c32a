"""What "auto" becomes: of the job, the model and the script's arguments; the rest is the script's, or is
refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import Config
from orchestrator.driver.deepspeed_part import with_deepspeed_ready
from orchestrator.driver.script_sources import script_sources
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.deepspeed_auto import assumed, filled, left_to_script
from orchestrator.plan.layout.layout import derive_layout
from tests.unit.plan.test_layout import config

HF: dict[str, Any] = {
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto", "loss_scale": 0},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto",
            "total_num_steps": "auto",
        },
    },
    "zero_optimization": {
        "stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}  # fmt: skip
ARGS: dict[str, Any] = {
    "learning_rate": "3e-4", "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": "1e-8",
    "weight_decay": 0.1, "warmup_steps": 0, "max_steps": 500, "max_grad_norm": 1.0,
}  # fmt: skip


def of(args: dict[str, Any], script_fills: bool = True, **changes: Any) -> Config:
    made = config(deepspeed=copy.deepcopy(HF), job__args=args, **changes)
    return filled(made, script_fills)


def test_all_of_a_file_of_hugging_face_is_filled_in() -> None:
    body = of(ARGS, job__precision="bf16").deepspeed
    assert left_to_script(body) == ()
    assert (body["bf16"], body["fp16"]) == ({"enabled": True}, {"enabled": False, "loss_scale": 0})
    adam = {"lr": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
    assert body["optimizer"]["params"] == adam
    warmup = {"warmup_min_lr": 0, "warmup_max_lr": 3e-4, "warmup_num_steps": 1, "total_num_steps": 500}
    assert body["scheduler"]["params"] == warmup
    sizes = {"stage": 3, "reduce_bucket_size": 4096, "stage3_prefetch_bucket_size": 3686}
    assert body["zero_optimization"] == {**sizes, "stage3_param_persistence_threshold": 640}
    assert body["gradient_clipping"] == 1.0
    layout = derive_layout(of(ARGS))
    assert (layout.micro_batch, layout.accumulation, layout.global_batch) == (2, 2, 32)


@given(st.dictionaries(st.sampled_from(sorted(ARGS)), st.sampled_from([0, 0.5, 3, "1e-3", "x", True, None])))
def test_filling_twice_changes_nothing(args: dict[str, Any]) -> None:
    once = of(args)
    assert filled(once, script_fills=True).deepspeed == once.deepspeed
    assert "auto" in HF["optimizer"]["params"].values(), "and what was given is as it was"


def test_what_nobody_here_knows_is_left_to_a_script_that_fills_it_in() -> None:
    left = left_to_script(of({}).deepspeed)
    assert "optimizer.params.lr" in left
    assert "bf16.enabled" in left, "which is --bf16 of the script, and its default is its own"
    assert "train_batch_size" not in left


JOB = {"job__global_batch": None, "job__micro_batch": 1}  # as where nobody has said anything


@pytest.mark.parametrize(
    ("words", "changes", "expected"),
    [
        ([], {}, ("micro_batch", "accumulation", "global_batch", "precision")),
        (["--per_device_train_batch_size=4", "--bf16"], {}, ("accumulation", "global_batch")),
        (["--per-device-train-batch-size", "4", "--gradient_accumulation_steps", "2", "--bf16", "True"], {}, ()),
        (["--fp16", "--lr=-1"], {"job__micro_batch": 2, "job__gradient_accumulation": 3}, ()),
        ([], {"job__global_batch": 64, "job__precision": "bf16"}, ("micro_batch", "accumulation")),
        ([], {"job__global_batch": 64, "job__micro_batch": 2, "job__precision": "fp32"}, ()),
    ],
)  # fmt: skip
def test_what_is_auto_and_said_by_nobody_is_the_script_s_own(
    tmp_path: Path, words: list[str], changes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    script, file = tmp_path / "train.py", tmp_path / "own.json"
    script.write_text("from transformers import Trainer\n")
    file.write_text(json.dumps(HF))
    made = config(
        deepspeed=copy.deepcopy(HF), deepspeed_file=str(file), model=None,
        job__argv=["--deepspeed", str(file), *words], **{**JOB, **changes},
    )  # fmt: skip
    ready = with_deepspeed_ready(made, script, tmp_path, script_sources(script))
    assert assumed(ready) == expected
    assert assumed(config()) == ()


@pytest.mark.parametrize(
    ("args", "changes", "expected"),
    [
        (
            {"per_device_train_batch_size": 8},
            {},
            "job.micro_batch=2: but job.args.per_device_train_batch_size=8",
        ),
        ({"bf16": True}, {"job__precision": "fp16"}, "job.precision=fp16: but job.args.bf16=true"),
    ],
)
def test_job_and_arguments_may_not_contradict(
    args: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match="^" + expected.replace(".", r"\.")):
        of(args, **changes)


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({}, "gradient_clipping"),
        ({"clip_grad": 1}, "optimizer.params.lr"),
        ({"clip_grad": 1, "lr": 1}, "optimizer.params.betas"),
    ],
)
def test_a_script_that_fills_in_nothing_is_refused_what_is_left(
    tmp_path: Path, args: dict[str, Any], key: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text("import deepspeed\n")
    made = config(deepspeed=copy.deepcopy(HF), job__args=args)
    with pytest.raises(ConfigError, match=f"^deepspeed.{key}=auto: .*write e.g. deepspeed.{key}="):
        with_deepspeed_ready(made, script, tmp_path, script_sources(script))
    script.write_text("import helper\n")
    (tmp_path / "helper.py").write_text("from accelerate import Accelerator\n")
    with_deepspeed_ready(made, script, tmp_path, script_sources(script))


@pytest.mark.parametrize(
    ("deepspeed", "changes", "expected"),
    [
        (
            {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 4},
            {},
            "deepspeed.train_batch_size=16: but deepspeed.train_micro_batch_size_per_gpu=3 × deepspeed.gradient_accumulation_steps=4 × 8 data-parallel ranks = 96",
        ),
        ({"fp16": {"enabled": True}}, {"job__precision": "bf16"}, "job.precision=bf16: but deepspeed.fp16.enabled=true"),
        ({"bf16": {"enabled": False}}, {"job__precision": "bf16"}, "job.precision=bf16: but deepspeed.bf16.enabled=false"),
    ],
)  # fmt: skip
def test_contradictions_name_the_keys_that_they_are_between(
    deepspeed: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        derive_layout(config(deepspeed=deepspeed, **changes))
    assert str(caught.value).startswith(expected)


def test_precision_is_left_to_a_file_that_switches_it_off() -> None:
    assert derive_layout(config(deepspeed={"bf16": {"enabled": False}})).precision == "fp32"
