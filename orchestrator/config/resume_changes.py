"""What somebody changes of a run that is taken up: honoured where the run can go on with it, else refused by
name.

The configuration of a run is kept with its values; which of them followed another key (a script's ``--steps``
from ``job.steps``) is kept beside it, and followed again where that key is changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from orchestrator import papers
from orchestrator.config import kinds, load
from orchestrator.config.origin import origin_of
from orchestrator.config.schema import Config
from orchestrator.config.words import literally, parsed_override
from orchestrator.errors import ConfigError
from orchestrator.redact import redact

STEPS, GLOBAL_BATCH = "job.steps", "job.global_batch"
SIZES = ("cluster.nodes", "cluster.gpus_per_node", "job.ranks")
# Keys and sections with which a run goes on as the same run.
MAY_CHANGE = (
    STEPS, *SIZES, "recovery", "tracking", "launch", "placement", "cluster.topology", "metrics",
    "snapshot.keep", "snapshot.keep_hours", "snapshot.dirs", "snapshot.park_s", "snapshot.park_bytes",
    "snapshot.trusted", "snapshot.allow_types",
    "env", "job.env", "ray_address", "owner", "project", "cost_center", "budget", "budgets",
    "cluster.price", "kueue",
)  # fmt: skip
# What says which run is meant, and nothing of it.
_WHICH_RUN = ("run_root", "run_name", "run_dir", "run_group_reads", "job.resume")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Wishes:
    """What somebody asks of a run that is taken up: the words, and what Hydra made of them.

    ``by_name``: the run was named for itself, and every word is a wish; else the words are those of the whole
    run, and choices of groups are not looked at.
    """

    words: Sequence[str]
    composed: DictConfig
    by_name: bool


@dataclass(frozen=True)
class Changed:
    """The configuration with the changes, and what was changed, as ``KEY=VALUE``."""

    config: Config
    words: tuple[str, ...]


def wishes_of(config: Config) -> Wishes:
    """Those of a whole run that is found to be there already."""
    composed, words = origin_of(config)
    return Wishes(words, composed, by_name=False)


def references_of(config: Config) -> dict[str, str]:
    """Which values follow a key that may be changed: their paths, and the text by which they do."""
    written = OmegaConf.to_container(origin_of(config)[0], resolve=False)
    leaves = load.leaves(written)
    found = {path: text for path, text in leaves if isinstance(text, str) and "${" in text}
    asked: set[str] = set()
    names = {GLOBAL_BATCH, *MAY_CHANGE}
    while followed := {path for path, text in found.items() if _follows(text, names) and path not in asked}:
        asked |= followed
        names |= followed
    return {path: found[path] for path in sorted(asked)}


def with_changes(
    saved: dict[str, Any], references: Mapping[str, str], path: Path, wishes: Wishes | None
) -> Changed:
    """The configuration ``saved`` for the run in a folder, with what is wished of it.

    Raises :class:`ConfigError` for a change that makes it another run.
    """
    if wishes is None:
        return Changed(load.from_container(saved), ())
    was_saved = OmegaConf.create(literally(saved))
    changes: dict[str, Any] = {}
    asked: dict[str, str] = {}
    for word in wishes.words:
        if (key := _changed_key(word, wishes.by_name)) is None:
            continue
        was, value = _value(was_saved, key), _value(wishes.composed, key)
        if was == value:
            continue
        if not _may_change(key):
            raise ConfigError(
                f"{word.lstrip('+')}: a run that is taken up keeps its {key}{_as_it_was(was)}; leave it out,"
                f" or start another run with job.checkpoint_dir={path / 'checkpoints'}, which goes on from"
                " this one's checkpoints"
            )
        changes[key] = value
        asked[key] = word.lstrip("+")
    if STEPS in changes and not any(_follows(text, {STEPS}) for text in references.values()):
        raise ConfigError(
            f"{asked[STEPS]}: no argument of this run's script is known to follow {STEPS}, and it would end"
            " where it would have; leave it out, or start another run with"
            f" job.checkpoint_dir={path / 'checkpoints'}"
        )
    if set(SIZES) & changes.keys() and _value(was_saved, GLOBAL_BATCH) is None:
        changes[GLOBAL_BATCH] = _planned_batch(path)  # more ranks are faster, and not another training
    names = set(changes)
    followed: dict[str, str] = {}
    for _ in references:
        followed |= {path: text for path, text in references.items() if _follows(text, names)}
        names |= followed.keys()
    return Changed(load.from_container(saved, changes, followed), tuple(asked.values()))


def _changed_key(word: str, by_name: bool) -> str | None:
    """The key that a word of the command line is to change; None for one that changes nothing.

    Raises :class:`ConfigError` for the choice of a group, which would change any number of keys.
    """
    found = None if word.startswith("-") else parsed_override(word)
    if found is None or found.key_or_group in _WHICH_RUN or found.key_or_group.startswith("hydra"):
        return None
    key = str(found.key_or_group)
    if "." not in key and (load.conf_dir() / key).is_dir():
        if by_name:
            some = [own for own in kinds.all_keys() if own.startswith(f"{key}.") and _may_change(own)]
            instead = f"name the keys that are to change, e.g. {some[0]}=…" if some else "leave it out"
            raise ConfigError(f"{word}: a run that is taken up keeps its {key}; {instead}")
        return None
    return key


def _may_change(key: str) -> bool:
    return any(f"{key}.".startswith(f"{may}.") for may in MAY_CHANGE)


def _follows(text: str, names: set[str]) -> bool:
    return any(f"{asked}.".startswith(f"{name}.") for asked in _REFERENCE.findall(text) for name in names)


def _value(container: Any, key: str) -> Any:
    value = OmegaConf.select(container, key, default=None)
    return _named(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)


def _named(value: Any) -> Any:
    """Choices by their names, as they are kept."""
    return getattr(value, "name", value)


def _as_it_was(value: Any) -> str:
    """What it is, unless that is a secret, or long."""
    if isinstance(value, dict | list) or value is None:
        return ""
    return f" ({redact(papers.short(value))})"


def _planned_batch(path: Path) -> int:
    """The sequences of a step with which the run was planned."""
    try:
        plan = papers.read_object(path / "plan.json")
        return int(cast(dict[str, Any], plan["layout"])["global_batch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path / 'plan.json'}: the run's batch cannot be read there ({error}); leave the size of the"
            f" cluster as it was, or say {GLOBAL_BATCH}=…"
        ) from None
