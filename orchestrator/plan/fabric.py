"""Fabric -> environment of a rank: what the interconnect asks for, and what the user set instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config import FabricConfig


@dataclass(frozen=True)
class Setting:
    """The value of one environment variable and where it comes from."""

    value: str
    source: str


def interconnect_environment(fabric: FabricConfig, user: Mapping[str, str]) -> dict[str, Setting]:
    """The environment of a rank on `fabric`, by variable name in alphabetical order.

    `user` is the configuration's `env`: its values win over the fabric's, and their source says so,
    with what they replace, or with the warning of a variable that the fabric wants left unset.
    """
    settings = {name: Setting(entry.value, entry.source) for name, entry in fabric.environment.items()}
    for name, value in user.items():
        settings[name] = Setting(value, _user_source(fabric, name, value))
    return dict(sorted(settings.items()))


def _user_source(fabric: FabricConfig, name: str, value: str) -> str:
    source = f"env.{name}, set by the user"
    if name in fabric.leave_unset:
        return f"{source}; WARNING: {fabric.name} wants it unset: {fabric.leave_unset[name]}"
    ours = fabric.environment.get(name)
    if ours is not None and ours.value != value:
        return f"{source} instead of {ours.value} ({ours.source})"
    return source
