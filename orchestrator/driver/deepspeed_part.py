"""The DeepSpeed part of a configuration made ready for a plan: what is "auto" in it is filled in, and what
cannot be trained with is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import deepspeed_argument, deepspeed_file
from orchestrator.config.deepspeed_keys import check_deepspeed
from orchestrator.config.deepspeed_values import AUTO
from orchestrator.config.placeholders import DEEPSPEED_CONFIG, asks_for
from orchestrator.config.schema import Config
from orchestrator.driver.script_sources import fills_auto
from orchestrator.errors import ConfigError
from orchestrator.plan.arguments import words_of
from orchestrator.plan.layout.deepspeed_auto import BATCH, BY_SCRIPT, filled
from orchestrator.plan.sharing import literal_deepspeed
from orchestrator.plan.source import Source


def with_deepspeed_ready(config: Config, script: Path, cwd: Path, sources: Sequence[Source]) -> Config:
    """The same configuration with the DeepSpeed part that the ranks will train with; ``sources`` are the
    script's and those of the modules beside it.

    Raises :class:`ConfigError`.
    """
    own = _own_file(config, script, cwd)
    if own is None and (literal := literal_of(config, sources)) is not None:
        return dataclasses.replace(config, deepspeed=literal)
    if own is None and not _has_auto(config.deepspeed):
        check_deepspeed(config.deepspeed)
        return config
    fills = fills_auto(sources)
    if own is not None:
        config = _read_by_script(config, own, fills)
    ready = filled(config, fills) if own is None or fills else config
    if own is not None:  # what the layout has of these is a plan's guess, which the script does not hear of
        guessed = {key: AUTO for key in BATCH if config.deepspeed.get(key) == AUTO}
        given = {key: value for key, value in ready.deepspeed.items() if value is not None}
        ready = dataclasses.replace(ready, deepspeed={**guessed, **given})
    _check(ready, own, fills)
    return ready


def literal_of(config: Config, sources: Sequence[Source]) -> dict[str, Any] | None:
    """The dictionary that the script's source hands to DeepSpeed by itself, where no argument names a file;
    None where it does not, or where that is nothing that a plan can be made from."""
    if (
        config.deepspeed_file is not None
        or config.job.command
        or asks_for(DEEPSPEED_CONFIG, words_of(config.job))
    ):
        return None
    body = literal_deepspeed(sources)
    if body is None or _has_auto(body):
        return None
    try:
        check_deepspeed(body)
    except ConfigError:  # which DeepSpeed may take all the same, and no word of ours would change
        return None
    return {"bf16": {"enabled": False}, **body}  # else a plan would switch it on where it can


def _own_file(config: Config, script: Path, cwd: Path) -> tuple[str, str, Path] | None:
    """The file that the script reads by itself, where the plan is made from it."""
    found = deepspeed_file.own_file(config.job.args, deepspeed_argument.argv_of(config.job), cwd, str(script))
    return found if found is not None and found[1] == config.deepspeed_file else None


def _read_by_script(config: Config, own: tuple[str, str, Path], fills: bool) -> Config:
    """Nothing that a plan adds would reach such a script, which reads its file as it is."""
    name, path, folder = own
    key = deepspeed_argument.as_typed(name)
    why = deepspeed_file.why_not_strict(path, folder) if fills else None
    if why is not None:
        raise ConfigError(
            f"{key}={path}: DeepSpeed reads it, but transformers and accelerate read JSON alone"
            f" ({why}); take out comments and trailing commas, or write deepspeed={path} and"
            f" {key}={{deepspeed_config}}"
        )
    body = dict(config.deepspeed)
    if "bf16" not in body:  # and a plan would switch it on where the accelerator has it
        body["bf16"] = {"enabled": False}
    return dataclasses.replace(config, deepspeed=body)


def _check(config: Config, own: tuple[str, str, Path] | None, fills: bool) -> None:
    try:
        check_deepspeed(config.deepspeed, BY_SCRIPT if fills else ())
    except ConfigError as error:
        if own is None or AUTO not in str(error).partition(":")[0]:
            raise
        name, path, _ = own
        key = deepspeed_argument.as_typed(name)
        raise ConfigError(
            f"{error}, or deepspeed={path} and {key}={{deepspeed_config}}, which is that file with"
            " its values filled in"
        ) from None


def _has_auto(node: object) -> bool:
    if isinstance(node, dict):
        return any(map(_has_auto, node.values()))
    return node == AUTO
