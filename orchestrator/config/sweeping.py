"""A sweep under way: what it is after, which keys it varies, and whether its sweeper can be told what a run
came to. Looked at before the first run of it is started."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.schema import Config
from orchestrator.config.sweep_schema import Objective, SweepConfig
from orchestrator.config.words import swept_keys
from orchestrator.errors import ConfigError

_ATTRIBUTE = "_varied"  # of a Config, beside its fields: neither compared nor written anywhere
# Takes every combination in turn, whatever came of the last.
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_SMALL = "minimize"
_EXAMPLE = "sweep.minimize=usd_to_loss sweep.loss=2.5"


def check_sweep(sweep: SweepConfig, sweeper: Mapping[str, Any], verb: str) -> None:
    """``sweeper`` is Hydra's part on it. Raises :class:`ConfigError` for what would be found out only when
    the first runs have been paid for."""
    chosen_by = str(sweeper.get("_target_") or BASIC)
    if chosen_by != BASIC and verb != "run":
        raise ConfigError(
            f"hydra.sweeper={_short(chosen_by)}: chooses by what runs came to, and '{verb}' runs nothing;"
            " leave hydra/sweeper out for an answer of each combination"
        )
    if chosen_by != BASIC and sweep.minimize is None:
        raise ConfigError(
            f"hydra.sweeper={_short(chosen_by)}: has to be told what to make small; add e.g. {_EXAMPLE}, or"
            " sweep.minimize=cost_usd"
        )
    direction = str(sweeper.get("direction") or _SMALL).rpartition(".")[2]
    if sweep.minimize is not None and direction != _SMALL:
        raise ConfigError(
            f"hydra.sweeper.direction={direction}: sweep.minimize={sweep.minimize.name} gives one figure that"
            " is to be small; leave hydra.sweeper.direction out"
        )
    check_objective(sweep)


def check_objective(sweep: SweepConfig) -> None:
    """Raises :class:`ConfigError` for an objective that lacks its loss, and for a loss that nothing asks
    for."""
    objective, loss = sweep.minimize, sweep.loss
    if loss is not None and not math.isfinite(loss):
        raise ConfigError(f"sweep.loss={loss}: is no number that a loss can have; write e.g. sweep.loss=2.5")
    if objective is not None and objective.needs_a_loss and loss is None:
        raise ConfigError(
            f"sweep.minimize={objective.name}: to which loss? Add e.g. sweep.loss=2.5, or write"
            f" sweep.minimize={Objective.best_loss.name}"
        )
    if loss is not None and (objective is None or not objective.needs_a_loss):
        said = "nothing asks" if objective is None else f"sweep.minimize={objective.name} does not ask"
        raise ConfigError(
            f"sweep.loss={loss:g}: {said} for it; write sweep.minimize=usd_to_loss, or leave it out"
        )


def refuse_without_sweep(sweep: SweepConfig) -> None:
    """Raises :class:`ConfigError` where a run that stands alone is asked to be part of a sweep."""
    for key, value in (("minimize", sweep.minimize and sweep.minimize.name), ("loss", sweep.loss)):
        if value is not None:
            raise ConfigError(
                f"sweep.{key}={value}: is for a sweep; add -m and several values of a key, e.g."
                " -m job.args.lr=1e-3,2e-3, or leave it out"
            )


def keys_of(words: Sequence[str], sweeper: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that a sweep varies: those of the words that were typed, and those that a configuration gives
    to the sweeper."""
    given = sweeper.get("params") or {}
    return tuple(dict.fromkeys((*swept_keys(words), *map(str, given))))


def with_varied(config: Config, keys: Sequence[str]) -> Config:
    """The same configuration, which knows itself to be one of a sweep over these keys."""
    vars(config)[_ATTRIBUTE] = tuple(keys)
    return config


def varied_keys(config: Config) -> tuple[str, ...] | None:
    """The keys of its sweep; None of a configuration that stands alone."""
    found = vars(config).get(_ATTRIBUTE)
    return found if isinstance(found, tuple) else None


def _short(target: str) -> str:
    return target.rpartition(".")[2]
