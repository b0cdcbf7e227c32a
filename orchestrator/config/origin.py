"""Where a configuration came from: what Hydra composed, before anything in it was resolved, and the words it
was asked.

A search writes its choice into the composed configuration, because a job's arguments refer to it
(``${layout.recompute}``), and it keeps what was asked for. A configuration whose keys a program has set since
is that same composition with these keys set, as if they had been typed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict

from orchestrator.config import deepspeed_argument, deepspeed_file, load, ranges, sense
from orchestrator.config.choices import THIS_MACHINE
from orchestrator.config.hardware_fit import (
    as_hypothetical,
    check_hardware,
    check_this_machine,
    why_nobody_sells,
)
from orchestrator.config.own_price import with_own_price
from orchestrator.config.schema import Config, FlagStyle
from orchestrator.config.words import literal, literally
from orchestrator.errors import ConfigError

_ATTRIBUTE = "_origin"  # of a Config, beside its fields: neither compared nor written anywhere
_PLAIN = re.compile(r"[A-Za-z_][\w./:-]*", re.ASCII)  # Hydra reads no other letters without quotes
_TYPED_ARGUMENT = re.compile(r"\+{0,2}job\.args\.(?P<name>[^=]+)=(?P<value>.*)", re.DOTALL)
_BOOLEAN = re.compile(r"\b(?:true|false)\b", re.IGNORECASE)
_NOT_TEXT = {"null", "true", "false", "nan", "inf", "yes", "no", "on", "off"}


@dataclass(frozen=True)
class Origin:
    """What was composed from which words, and what came of it; ``searched`` where a search has chosen its
    layout."""

    composed: DictConfig
    words: tuple[str, ...]
    loaded: Mapping[str, Any]
    searched: bool


def from_composed(composed: DictConfig, words: tuple[str, ...], searched: bool = False) -> Config:
    """The configuration of what Hydra composed, which remembers both. Raises as :func:`load.load` does,
    and for what :func:`sense.check` refuses."""
    composed = with_own_file(composed, words)
    config = as_hypothetical(load.load(with_some_nodes(composed)), words)
    check_hardware(config)
    config = with_own_price(with_typed_booleans(config, words), words)
    sense.check(config, cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False)))
    vars(config)[_ATTRIBUTE] = Origin(composed, words, load.to_container(config), searched)
    return config


def base_of(composed: DictConfig) -> Config:
    """What clusters are compared from: the configuration as it stands, whose numbers are in their ranges.
    This machine, which may have no GPU, is not one of those compared. Raises :class:`ConfigError`."""
    base = load.load(with_some_nodes(composed))
    if base.cluster.name == THIS_MACHINE:
        base.cluster.gpus_per_node = max(1, base.cluster.gpus_per_node)
    ranges.check(base)
    return base


def with_some_nodes(composed: DictConfig) -> DictConfig:
    """With one node where a budget is to say how many."""
    if composed.budget_usd is None or not OmegaConf.is_missing(composed.cluster, "nodes"):
        return composed
    composed = composed.copy()
    composed.cluster.nodes = 1
    return composed


def with_own_file(composed: DictConfig, words: Sequence[str]) -> DictConfig:
    """With the DeepSpeed file that the script reads by itself, where one of its arguments names it.

    Raises :class:`ConfigError` where the words say something else: the script would not hear of it.
    """
    job = composed.job
    named = [(name, value) for name, value in job.args.items() if not OmegaConf.is_missing(job.args, name)]
    # A word of three question marks is a word: to iterate over the list would ask for a value.
    argv = [] if job.command else cast(list[str], OmegaConf.to_container(job.argv, resolve=True))
    if deepspeed_argument.named_by(dict(named), argv) is None:
        return composed
    script = "" if OmegaConf.is_missing(job, "script") else str(job.script or "")
    found = deepspeed_file.own_file(dict(named), argv, Path(job.cwd or Path.cwd()), script)
    assert found is not None
    name, path, folder = found
    key = deepspeed_argument.as_typed(name)
    hand_over = f"write deepspeed={path} and {key}={{deepspeed_config}}, which is that file, resolved"
    for word in words:
        changed, _, value = word.lstrip("+~").partition("=")
        if changed.startswith("deepspeed.") or (changed == "deepspeed" and value.strip("'") != path):
            raise ConfigError(
                f"{word}: the script reads {path} by itself ({key}) and would not hear of it; {hand_over}"
            )
    body = deepspeed_file.read(path, key, folder)
    composed = composed.copy()
    with open_dict(composed):
        composed.deepspeed = OmegaConf.create(literally(body))
        composed.deepspeed_file = literal(path)
    return composed


def with_typed_booleans(config: Config, words: Sequence[str]) -> Config:
    """With ``True`` and ``False`` among ``job.args`` as they were typed, where they go on as text.

    Hydra makes one value of ``False`` and ``false``, and to most scripts they are one. But to what reads
    Python's own (nanoGPT's configurator, fire, tyro) ``false`` is a text, and a text is true.
    """
    if config.job.flag_style is not FlagStyle.equals:
        return config
    given, args = config.job.args, dict(config.job.args)
    for word in words:
        if (match := _TYPED_ARGUMENT.fullmatch(word)) and isinstance(value := given.get(match["name"]), bool):
            # of a sweep the one that this run has
            spelled = {typed.lower(): typed for typed in _BOOLEAN.findall(match["value"])}
            typed = spelled.get(plain := str(value).lower(), plain)
            args[match["name"]] = value if typed == plain else typed
    return dataclasses.replace(config, job=dataclasses.replace(config.job, args=args))


def was_searched(config: Config) -> bool:
    """Whether a search has chosen its layout already."""
    origin = vars(config).get(_ATTRIBUTE)
    return isinstance(origin, Origin) and origin.searched


def origin_of(config: Config) -> tuple[DictConfig, tuple[str, ...]]:
    """What Hydra composed, and the words, both with what has been set since. One that Hydra has not composed
    has nothing left to interpolate, and nobody has asked for any of it."""
    origin, now = vars(config).get(_ATTRIBUTE), load.to_container(config)
    if not isinstance(origin, Origin):
        return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), literally(now))), ()
    if origin.loaded == now:
        return origin.composed, origin.words
    composed = origin.composed.copy()
    with open_dict(composed):
        words = tuple(_set(composed, origin.loaded, now))
    return composed, (*origin.words, *words)


def of_real_hardware(config: Config) -> Config:
    """The configuration, with a node that nobody sells described as such where that has been asked for since.

    Raises :class:`ConfigError` for GPUs that no node of the cluster has.
    """
    if config.cluster.hypothetical and why_nobody_sells(config) is not None:
        return from_composed(*origin_of(config))
    check_this_machine(config)
    check_hardware(config)
    return config


def changed(config: Config, **values: Any) -> Config:
    """A copy with other values at its root, of the same origin."""
    copied = dataclasses.replace(config, **values)
    if (origin := vars(config).get(_ATTRIBUTE)) is not None:
        vars(copied)[_ATTRIBUTE] = origin
    return copied


def word(key: str, value: Any) -> str:
    """``KEY=VALUE`` as one would type it, with Hydra's quotes around what would not be read as the same
    text."""
    return f"{key}={_in_hydra(value)}"


def _set(
    node: DictConfig, before: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> Iterator[str]:
    """Set what is not as before; yields a word for each key."""
    for name, value in now.items():
        was, key = before.get(name, node), f"{path}{name}"  # no value is equal to a node
        if isinstance(value, dict) and isinstance(was, dict) and not OmegaConf.is_interpolation(node, name):
            yield from _set(node[name], was, value, f"{key}.")
        elif value != was:
            node[name] = literally(value)
            yield f"++{word(key, value)}"
    for name in before.keys() - now.keys():
        del node[name]
        yield f"~{path}{name}"


def _in_hydra(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{','.join(map(_in_hydra, value))}]"
        case dict():
            return f"{{{','.join(f'{key}:{_in_hydra(inner)}' for key, inner in value.items())}}}"
        case str() if not _PLAIN.fullmatch(value) or value.lower() in _NOT_TEXT:
            return str(QuotedString(value, Quote.single).with_quotes())
    return str(value)
