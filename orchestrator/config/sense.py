"""Values that fit their type and their range and still mean nothing: refused when they are composed.

What a run that is on a disk already says is not looked at here; it has been started with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.config import ranges
from orchestrator.config.placeholders import asks_for, texts_of
from orchestrator.config.schema import Config, LayoutConfig
from orchestrator.errors import ConfigError, near_miss

# What tells a rank which one it is, and where the others are: each has its own, whatever is set for all.
OF_EACH_RANK = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE",
)  # fmt: skip
# Which devices: those that Ray has given to the gang. An empty one hides them all, which is no harm.
OF_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# Scripts that come with the project; what another does with an empty list is its own affair.
OURS = ("jobs/pretrain.py",)
# What their numbers can be; anything else would be found out by ranks that have been started for it.
ARGUMENTS = {
    "lr": ranges.Range(0, 1e3, 1.5e-3, above=True),
    "min_lr_ratio": ranges.Range(0, 1, 0.1),
    "weight_decay": ranges.Range(0, 1e3, 0.1),
    "beta1": ranges.Range(0, 0.999999, 0.9),
    "beta2": ranges.Range(0, 0.999999, 0.95),
    "warmup_steps": ranges.Range(0, 1e12, 10),
    "val_fraction": ranges.Range(0, 0.999999, 0.005),
    "sample_temperature": ranges.Range(0, 1e3, 0.8),
}
# The degrees of a layout that a script can know.
PARALLELISMS = tuple(
    field.name for field in dataclasses.fields(LayoutConfig) if ranges.range_of(LayoutConfig, field.name)
)


def check(config: Config, written: dict[str, Any]) -> None:
    """``written`` is the same configuration with its interpolations. Raises :class:`ConfigError`."""
    ranges.check(config)
    _check_variables("env", config.env)
    _check_variables("job.env", config.job.env)
    for kind in config.job.supports or ():
        if kind not in PARALLELISMS:
            raise ConfigError(
                f"job.supports=[{kind}]: no kind of parallelism of {', '.join(PARALLELISMS)}"
                f"{near_miss(kind, PARALLELISMS)}; write e.g. job.supports=[tp,pp], or job.supports=[] for"
                " data parallel only"
            )
    if config.job.script in OURS:
        _check_arguments(config.job.args)
    arguments = written.get("job", {}).get("args") or {}
    reads = config.job.script in OURS and asks_for("${job.corpus}", texts_of(arguments))
    if reads and not config.job.corpus:
        raise ConfigError(
            f"job.corpus=[]: job '{config.job.name}' trains on it; give files, directories or globs, e.g."
            " job.corpus=[/data/books], or job.corpus=[stdlib]"
        )


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name, range_ in ARGUMENTS.items():
        value = arguments.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if (why := range_.why_not(value)) is not None:
            example = range_.instead_of(None)
            raise ConfigError(f"job.args.{name}={value:g}: {why}; write e.g. job.args.{name}={example}")


def _check_variables(key: str, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if name in OF_DEVICES and value:
            raise ConfigError(
                f"{key}.{name}={value}: Ray gives a run its GPUs, and those may be another's; leave it out,"
                f" or set {name} in the shell where Ray is started"
            )
        if name in OF_EACH_RANK:
            raise ConfigError(
                f"{key}.{name}: every rank gets its own from the run, and would not see this one; leave it"
                f" out, or remove it with '~{key}.{name}'"
            )
