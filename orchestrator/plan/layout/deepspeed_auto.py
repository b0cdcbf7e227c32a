"""What ``"auto"`` in a DeepSpeed configuration stands for.

The word is Hugging Face's: DeepSpeed itself knows it in few places. Which keys it is for, and what they
become, is as in ``HfTrainerDeepSpeedConfig`` of transformers 5.24 (``integrations/deepspeed.py``), with the
values of ``TrainingArguments`` taken from the script's arguments, and batch sizes and precision from the job.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.config.deepspeed_argument import as_typed, given_to
from orchestrator.config.deepspeed_values import AUTO
from orchestrator.config.schema import Config, JobConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import precision_of

BATCH = {  # DeepSpeed's key, the job's, and that of TrainingArguments
    "train_micro_batch_size_per_gpu": ("micro_batch", "per_device_train_batch_size"),
    "gradient_accumulation_steps": ("gradient_accumulation", "gradient_accumulation_steps"),
    "train_batch_size": ("global_batch", "train_batch_size"),
}
# The arguments of a script that a key follows, the first that is there.
_ARGUMENTS = {
    "gradient_clipping": ("max_grad_norm", "gradient_clipping", "clip_grad", "grad_clip"),
    "optimizer.params.lr": ("learning_rate", "lr"),
    "optimizer.params.eps": ("adam_epsilon", "adam_eps", "eps"),
    "optimizer.params.weight_decay": ("weight_decay", "wd"),
    "scheduler.params.warmup_max_lr": ("learning_rate", "lr"),
    "scheduler.params.total_num_steps": ("max_steps", "total_num_steps", "max_train_steps"),
    "scheduler.params.warmup_num_steps": ("warmup_steps", "warmup_num_steps", "num_warmup_steps"),
}
_WHOLE = ("scheduler.params.total_num_steps", "scheduler.params.warmup_num_steps")
_HIDDEN = "reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"
# What transformers and accelerate fill in, once they have the model and their own arguments.
BY_SCRIPT = frozenset(
    f"deepspeed.{key}"
    for key in (
        *BATCH, *_ARGUMENTS, "optimizer.params.betas", "scheduler.params.warmup_min_lr", "fp16.enabled",
        "bf16.enabled", *(f"zero_optimization.{name}" for name in _HIDDEN),
    )
)  # fmt: skip


def filled(config: Config, script_fills: bool) -> Config:
    """A copy whose DeepSpeed part has values in place of "auto", as far as job, model and arguments have
    them. ``script_fills``: the script imports transformers or accelerate, which fill in the rest.

    Doing it twice changes nothing. Raises :class:`ConfigError` where job and arguments contradict each other.
    """
    if AUTO not in _values(config.deepspeed):
        return config
    body = copy.deepcopy(config.deepspeed)
    config = dataclasses.replace(config, deepspeed=body)
    for key in [key for key in BATCH if body.get(key) == AUTO]:
        body[key] = _batch(config, key)
    for key in _ARGUMENTS:
        _put(body, key, _argument(config, key, script_fills))
    _put(body, "optimizer.params.betas", _betas(given_to(config.job)))
    _put(body, "scheduler.params.warmup_min_lr", 0)
    _fill_precision(config, body, script_fills)
    if config.model is not None:
        zero, hidden = body.get("zero_optimization"), config.model.hidden
        _put(body, "zero_optimization.reduce_bucket_size", hidden * hidden)
        if isinstance(zero, Mapping) and zero.get("stage") == 3:
            _put(body, "zero_optimization.stage3_prefetch_bucket_size", int(0.9 * hidden * hidden))
            _put(body, "zero_optimization.stage3_param_persistence_threshold", 10 * hidden)
    return config


def left_to_script(deepspeed: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that are "auto" still and that transformers and accelerate fill in."""
    paths = _paths(deepspeed, "deepspeed")
    return tuple(path.removeprefix("deepspeed.") for path in paths if path in BY_SCRIPT)


def assumed(config: Config) -> tuple[str, ...]:
    """Of micro-batch, accumulation, global batch and precision what nobody has stated: it is "auto" still in
    a file that the script fills in by itself, and the job does not say it. A plan computes with a default,
    and the script runs with its own. Names are those of the layout."""
    job, auto = config.job, {name for key, (name, _) in BATCH.items() if config.deepspeed.get(key) == AUTO}
    micro = "micro_batch" in auto and job.micro_batch == JobConfig.micro_batch
    turns = "gradient_accumulation" in auto and job.gradient_accumulation is None
    turns = turns and (job.global_batch is None or micro)
    whole = "global_batch" in auto and job.global_batch is None and (micro or turns)
    sections = (config.deepspeed.get(name) for name in ("bf16", "fp16"))
    precision = job.precision == AUTO and any(isinstance(one, Mapping) and _is_auto(one) for one in sections)
    found = {"micro_batch": micro, "accumulation": turns, "global_batch": whole, "precision": precision}
    return tuple(name for name, is_assumed in found.items() if is_assumed)


def _batch(config: Config, key: str) -> int | None:
    """Of an argument of the script, else of the job; None leaves it to the layout."""
    name, argument = BATCH[key]
    asked, given = getattr(config.job, name), _number(given_to(config.job).get(argument))
    if given is None:
        return None
    if name == "micro_batch" and asked == 1:  # which is also what it is where nobody has set it
        asked = None
    if asked is not None and asked != given:
        raise ConfigError(
            f"job.{name}={asked}: but {_as_typed(config, argument)}={given:g}; write one of them, or both the"
            " same"
        )
    return int(given)


def _argument(config: Config, key: str, script_fills: bool) -> float | None:
    args = given_to(config.job)
    value = next((found for name in _ARGUMENTS[key] if (found := _number(args.get(name))) is not None), None)
    if key == "scheduler.params.total_num_steps":
        if value is None and not script_fills and config.job.steps:
            return config.job.steps
        value = value if value is not None and value > 0 else None  # -1 there means: count epochs
    if key == "scheduler.params.warmup_num_steps" and value is not None:
        # a share of the steps below 1, which the script works out; DeepSpeed takes no 0
        value = 1 if value == 0 else value if value >= 1 else None
    return int(value) if value is not None and key in _WHOLE else value


def _betas(args: Mapping[str, Any]) -> list[float] | None:
    both: list[Any] = [args.get("adam_beta1"), args.get("adam_beta2")]
    if None in both:
        given = args.get("betas")
        both = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    betas = [number for one in both if (number := _number(one)) is not None]
    return betas if len(betas) == 2 else None


def _fill_precision(config: Config, body: dict[str, Any], script_fills: bool) -> None:
    sections = [
        name for name in ("bf16", "fp16") if isinstance(body.get(name), Mapping) and _is_auto(body[name])
    ]
    if not sections:
        return
    asked = config.job.precision
    given = given_to(config.job)
    named = [name for name in ("bf16", "fp16") if str(given.get(name)).lower() == "true"]
    for name in named:
        if asked not in ("auto", name):
            raise ConfigError(
                f"job.precision={asked}: but {_as_typed(config, name)}=true; write job.precision={name}, or"
                " leave one of them out"
            )
    if asked == "auto" and named:
        asked = named[0]
    if asked == "auto":
        if script_fills:
            return
        asked = precision_of(config)
    for name in sections:
        body[name] = {**body[name], "enabled": name == asked}


def _as_typed(config: Config, argument: str) -> str:
    """An argument as its user has typed it."""
    return as_typed(argument if argument in config.job.args else f"--{argument}")


def _is_auto(section: Mapping[str, Any]) -> bool:
    return bool(section.get("enabled") == AUTO)


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    """In place of "auto" alone; None is no value."""
    *sections, name = path.split(".")
    node: Any = body
    for section in sections:
        node = node.get(section) if isinstance(node, Mapping) else None
    if value is not None and isinstance(node, dict) and node.get(name) == AUTO:
        node[name] = value


def _number(value: Any) -> float | None:
    """A number, which an argument may have as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _paths(node: Mapping[str, Any], where: str) -> list[str]:
    found = []
    for name, value in node.items():
        if isinstance(value, Mapping):
            found += _paths(value, f"{where}.{name}")
        elif value == AUTO:
            found.append(f"{where}.{name}")
    return found


def _values(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else None
    return [node] if inner is None else [value for one in inner for value in _values(one)]
