"""Misspelt DeepSpeed keys are refused by their full path; the list of keys is DeepSpeed's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from orchestrator.config.deepspeed_keys import KEYS_FILE, check_deepspeed, deprecated_keys
from orchestrator.config.load import conf_dir
from orchestrator.errors import ConfigError
from tests.support.folders import PROJECT

GENERATOR = PROJECT / "infra" / "generate_deepspeed_keys.py"
VERSION = json.loads(KEYS_FILE.read_text())["deepspeed"]


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        check_deepspeed(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "path", "hint"),
    [
        ({"gradient_cliping": 1.0}, "deepspeed.gradient_cliping", "gradient_clipping"),
        ({"zero_optimisation": {"stage": 2}}, "deepspeed.zero_optimisation", "zero_optimization"),
        ({"zero_optimization": {"stages": 2}}, "deepspeed.zero_optimization.stages", "stage"),
        (
            {"zero_optimization": {"offload_optimizer": {"pin_memroy": True}}},
            "deepspeed.zero_optimization.offload_optimizer.pin_memroy",
            "pin_memory",
        ),
        ({"flops_profiler": {"profile_steps": 3}}, "deepspeed.flops_profiler.profile_steps", "profile_step"),
        (
            {"timers": {"throughput": {"synchronised": 1}}},
            "deepspeed.timers.throughput.synchronised",
            "synchronized",
        ),
        ({"optimizer": {"type": "AdanW"}}, "deepspeed.optimizer.type=AdanW", "AdamW"),
        (
            {"optimizer": {"type": "AdamW", "params": {"weigth_decay": 0.1}}},
            "deepspeed.optimizer.params.weigth_decay",
            "weight_decay",
        ),
        ({"scheduler": {"type": "WarmupDecayLr"}}, "deepspeed.scheduler.type=WarmupDecayLr", "WarmupDecayLR"),
        ({"bf16": {"enable": True}}, "deepspeed.bf16.enable", "enabled"),
    ],
)
def test_misspelt_key_is_refused_with_path_and_near_miss(
    config: dict[str, Any], path: str, hint: str
) -> None:
    message = refusal(config)
    assert message.startswith(f"{path}:")
    assert f"did you mean '{hint}'?" in message


def test_unknown_key_names_the_deepspeed_version() -> None:
    assert refusal({"qqqqqq": 1}) == f"deepspeed.qqqqqq: DeepSpeed {VERSION} has no such key; remove it"


@pytest.mark.parametrize("name", ["elasticity", "nebula", "amp", "sparse_attention"])
def test_dropped_sections_are_refused(name: str) -> None:
    assert f"deepspeed.{name}: DeepSpeed {VERSION} has dropped this key" in refusal({name: {"enabled": True}})


def test_value_and_section_are_not_confused() -> None:
    assert "takes a section here" in refusal({"bf16": True})
    assert "takes one value here" in refusal({"gradient_clipping": {"value": 1.0}})


@pytest.mark.parametrize(
    "config",
    [
        {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1e9, "max_live_parameters": 1e9}},
        {"zero_optimization": True},
        {"optimizer": {"type": "adamw", "params": {"lr": 1e-3, "betas": [0.9, 0.95], "torch_adam": True}}},
        {"optimizer": {"type": "RMSprop", "params": {"alpha": 0.9}}},
        {"optimizer": {"type": "Muon", "params": {"something_else_entirely": 1}}},
        {"scheduler": {"type": "CosineAnnealingLR", "params": {"T_max": 10}}},
        {"train_batch_size": None, "gradient_accumulation_steps": None, "fp16": None},
        {"data_efficiency": {"data_sampling": {"curriculum_learning": {"curriculum_metrics": {"mine": {}}}}}},
        {"pipeline": {"use_reentrant": False}, "sequence_parallel_size": 2, "data_parallel_size": 2},
        {"checkpoint": {"load_universal": True}, "tensor_parallel": {"tp": {"tp_size": 2}}},
    ],
)
def test_what_deepspeed_reads_is_accepted(config: dict[str, Any]) -> None:
    check_deepspeed(config)


def nested(path: str, value: Any) -> dict[str, Any]:
    body = value
    for name in reversed(path.split(".")):
        body = {name: body}
    return dict(body)


WRONG: list[tuple[str, Any, str, str]] = [
    ("train_batch_size", -8, "a whole number above 0", "=1"),
    ("train_batch_size", 0, "a whole number above 0", "=1"),
    ("train_micro_batch_size_per_gpu", 1.5, "a whole number above 0", "=1"),
    ("gradient_accumulation_steps", "4", "a whole number above 0", "=1"),
    ("gradient_clipping", -1.0, "a number from 0", "=1.0"),
    ("gradient_clipping", float("inf"), "a number from 0", "=1.0"),
    ("steps_per_print", True, "a whole number above 0", "=1"),
    ("wall_clock_breakdown", "no", "true or false", "=false"),
    ("zero_optimization.stage", 4, "one of 0, 1, 2, 3", "=0"),
    ("zero_optimization.stage", True, "one of 0, 1, 2, 3", "=0"),
    ("zero_optimization.stage", None, "one of 0, 1, 2, 3", "=0"),
    ("zero_optimization.reduce_bucket_size", 0, "a whole number above 0", "=500000000"),
    ("zero_optimization.reduce_bucket_size", None, "a whole number above 0", "=500000000"),
    ("zero_optimization.overlap_comm", "false", "true or false, or null", "=true"),
    ("zero_optimization.offload_optimizer.device", "cpux", "one of none, cpu, nvme", "did you mean 'cpu'?"),
    ("zero_optimization.offload_optimizer.ratio", 1.5, "a number from 0 to 1", "=1.0"),
    ("zero_optimization.offload_param.nvme_path", 5, "a text, or null", "=TEXT"),
    ("fp16.enabled", "yes", "true or false", "=false"),
    ("fp16.loss_scale", -1, "a number from 0", "=0"),
    ("fp16.hysteresis", 10**400, "a whole number", "=2"),
    ("comms_logger.prof_ops", "all", "a list", "=[]"),
    ("flops_profiler.profile_step", "x", "a whole number", "=1"),
]


@pytest.mark.parametrize(("path", "value", "expected", "remedy"), WRONG)
def test_a_wrong_value_is_refused_with_what_to_write(
    path: str, value: Any, expected: str, remedy: str
) -> None:
    message = refusal(nested(path, value))
    assert message.startswith(f"deepspeed.{path}=")
    assert f"DeepSpeed {VERSION} takes {expected} here" in message
    assert remedy in message


def values(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node.get("keys", {}).items():
        yield ".".join((*path, name)), child
        yield from values(child, (*path, name))


def test_what_is_proposed_is_taken() -> None:
    """Every refusal of a value ends with one that is none."""
    known = [
        (path, node) for path, node in values(json.loads(KEYS_FILE.read_text())) if node.keys() & {"is", "of"}
    ]
    assert len(known) > 150
    for path, _ in known:
        proposed = refusal(nested(path, {1, 2})).partition(f"write e.g. deepspeed.{path}=")[2]
        check_deepspeed(nested(path, yaml.safe_load(proposed)))


NEEDED = [
    *(
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ),
    *("zero_optimization.stage", "fp16.enabled", "bf16.enabled", "zero_optimization.reduce_bucket_size"),
    *("zero_optimization.stage3_prefetch_bucket_size", "zero_optimization.allgather_bucket_size"),
    *("zero_optimization.offload_optimizer.device", "steps_per_print", "wall_clock_breakdown"),
]


@pytest.mark.parametrize("path", NEEDED)
def test_auto_is_refused_where_the_plan_or_deepspeed_needs_a_value(path: str) -> None:
    assert refusal(nested(path, "auto")).startswith(f"deepspeed.{path}=auto: nothing fills it in here")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("zero_optimization.stage3_param_persistence_threshold", "auto"),
        ("zero_optimization.reduce_bucket_size", 5e8),
        ("zero_optimization.overlap_comm", None),
        ("zero_optimization.round_robin_gradients", 1),
        ("zero_optimization.zenflow.select_interval", "auto"),
        ("gradient_clipping", 1),
        ("train_batch_size", None),
        ("data_types.keep_in_fp32_modules", ["norm"]),
        ("checkpoint.tag_validation", "Fail"),
        ("communication_data_type", "fp32"),
        ("pipeline.stages", "auto"),
    ],
)
def test_what_deepspeed_takes_passes(path: str, value: Any) -> None:
    check_deepspeed(nested(path, value))


def test_deprecated_keys_pass_and_are_listed() -> None:
    config = {"zero_optimization": {"stage": 2, "cpu_offload": True}}
    check_deepspeed(config)
    assert deprecated_keys(config) == {"deepspeed.zero_optimization.cpu_offload": "offload_optimizer"}
    assert deprecated_keys({"zero_optimization": {"stage": 2}}) == {}


def test_deprecated_and_dropped_names_are_never_suggested() -> None:
    assert "did you mean 'cpu_offload" not in refusal({"zero_optimization": {"cpu_offload_para": True}})
    assert "did you mean 'nebula'" not in refusal({"nebulla": {}})


@pytest.mark.parametrize(
    "path", sorted((conf_dir() / "deepspeed").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_files_pass(path: Path) -> None:
    job = {"global_batch": 8, "micro_batch": 2, "gradient_accumulation": None}
    whole = OmegaConf.create({"job": job, "deepspeed": OmegaConf.load(path)})
    check_deepspeed(OmegaConf.to_container(whole, resolve=True)["deepspeed"])  # type: ignore[call-overload, index]


@pytest.mark.real
def test_list_is_what_the_installed_deepspeed_reads() -> None:
    """In a process of its own: importing DeepSpeed changes torch, warnings and signal handlers."""
    code = (
        f"import sys, json; sys.path.insert(0, {str(GENERATOR.parent)!r})\n"
        "from generate_deepspeed_keys import generate\n"
        "content = generate(); sys.stdout = sys.stderr; sys.__stdout__.write('KEYS ' + json.dumps(content))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    generated = json.loads(done.stdout.split("KEYS ", 1)[1])
    assert generated == json.loads(KEYS_FILE.read_text()), f"run: python {GENERATOR}"
