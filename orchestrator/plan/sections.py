"""What a plan reads of a DeepSpeed configuration, which has no schema of ours: each value is what it has to
be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config.deepspeed_values import AUTO
from orchestrator.errors import ConfigError
from orchestrator.papers import LARGEST, short


def section_of(deepspeed: Mapping[str, Any], name: str, where: str = "") -> Mapping[str, Any]:
    """A section of a DeepSpeed configuration, empty where there is none. Raises :class:`ConfigError`."""
    section = deepspeed.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"deepspeed.{where}{name}={short(section)}: DeepSpeed takes a section here; write "
            f"deepspeed.{where}{name}={{}} or leave it out"
        )
    return section


def count_of(section: Mapping[str, Any], name: str, default: int = 0, where: str = "") -> int:
    """A whole number from 0 of a DeepSpeed configuration, which may be written as 5e8. Raises
    :class:`ConfigError`. What is "auto" has the default as far as a plan can know."""
    value = section.get(name, default)
    if value == AUTO or (value is None and not where):
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= LARGEST or value != int(value):
        raise ConfigError(
            f"deepspeed.{where}{name}={short(value)}: has to be a whole number from 0, e.g."
            f" deepspeed.{where}{name}=1"
        )
    return int(value)
