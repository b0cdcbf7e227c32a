"""Values that fit their type and their range and still mean nothing: refused when they are composed.

What a run that is on a disk already says is not looked at here; it has been started with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
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
# Scripts that come with the project; what another does with an empty list is its own affair.
OURS = ("jobs/pretrain.py",)
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
    arguments = written.get("job", {}).get("args") or {}
    reads = config.job.script in OURS and asks_for("${job.corpus}", texts_of(arguments))
    if reads and not config.job.corpus:
        raise ConfigError(
            f"job.corpus=[]: job '{config.job.name}' trains on it; give files, directories or globs, e.g."
            " job.corpus=[/data/books], or job.corpus=[stdlib]"
        )


def _check_variables(key: str, names: Iterable[str]) -> None:
    for name in names:
        if name in OF_EACH_RANK:
            raise ConfigError(
                f"{key}.{name}: every rank gets its own from the run, and would not see this one; leave it"
                f" out, or remove it with '~{key}.{name}'"
            )
