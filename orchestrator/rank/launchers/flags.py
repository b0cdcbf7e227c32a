"""What becomes of a launcher's flags: translated, left out because they are served anyhow, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.vocabulary import ProgramKind


def given(asked: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The flags whose values are not the launcher's own defaults, by name."""
    return {name: value for name, value in asked.items() if value != usual.get(name)}


def refuse(launcher: str, flags: Iterable[str], why: Mapping[str, str]) -> None:
    """Raises :class:`ConfigError` for the first flag that has a reason."""
    for name in flags:
        if name in why:
            raise ConfigError(f"{launcher}: --{name} {why[name]}")


def refuse_other_nodes(launcher: str, flag: str, number: int | None) -> None:
    """Raises :class:`ConfigError` for a command that was meant for another node than the first."""
    if number is not None and number > 0:
        raise ConfigError(
            f"{launcher}: --{flag}={number} starts the ranks of one node; here one command starts all"
            f" of them: run it once, with {flag}=0 or without, and ray_address=HOST:PORT of the cluster"
        )


def kind_of(launcher: str, module: bool, no_python: bool) -> ProgramKind:
    if module and no_python:
        raise ConfigError(
            f"{launcher}: --module and --no_python are about the same word; leave one of them out"
        )
    return ProgramKind.MODULE if module else ProgramKind.COMMAND if no_python else ProgramKind.SCRIPT


def first_of_each(launcher: str, flag: str, slots: Iterable[int]) -> int:
    """How many devices of a node are named. Raises :class:`ConfigError` unless they are its first."""
    numbers = sorted(slots)
    if numbers != list(range(len(numbers))):
        raise ConfigError(
            f"{launcher}: {flag} names devices {','.join(map(str, numbers))}; ranks take a node's first ones:"
            " set CUDA_VISIBLE_DEVICES where Ray is started, and leave the flag out"
        )
    return len(numbers)
