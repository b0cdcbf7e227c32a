"""Fabric -> environment of a rank: what the interconnect asks for, and what the user set instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.placeholders import INTERFACE
from orchestrator.config.schema import Config, FabricConfig

# Filled in on each node: interfaces have other names on other machines.
_LOOPBACK = "lo"


@dataclass(frozen=True)
class Setting:
    """The value of one environment variable and where it comes from."""

    value: str  # what the variable is set to
    source: str  # where the value comes from, and what it replaces


def environment_of_user(config: Config) -> dict[str, str]:
    """What the user sets of a rank's environment: the job's part, and the root's, which wins."""
    return {**config.job.env, **config.env}


def interconnect_environment(
    fabric: FabricConfig, user: Mapping[str, str], nodes: int = 1
) -> dict[str, Setting]:
    """The environment of a rank on `fabric`, by variable name in alphabetical order.

    On several nodes the loopback interface, which reaches no other node, gives way to the interface of
    the node's address; `{interface}` in a value stands for its name and is filled in on each node.
    `user` is the configuration's `env`: its values win over the fabric's, and their source says so,
    with what they replace, or with the warning of a variable that the fabric wants left unset.
    """
    settings = {name: Setting(entry.value, entry.source) for name, entry in fabric.environment.items()}
    for name, setting in settings.items():
        if nodes > 1 and setting.value == _LOOPBACK and name.endswith("_SOCKET_IFNAME"):
            exact = "=" if name == "NCCL_SOCKET_IFNAME" else ""  # without it NCCL takes a prefix
            settings[name] = Setting(
                exact + INTERFACE,
                f"the interface of the node's address in Ray, as {nodes} nodes do not meet on {_LOOPBACK}",
            )
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
