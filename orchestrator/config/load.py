"""From what Hydra composed to plain dataclasses, and back to text.

OmegaConf is used here, in the schema and in ``cli.py`` only.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from orchestrator import papers
from orchestrator.config import deepspeed_file, hardware, published_runs, ranges
from orchestrator.config.notifying import learn_secrets
from orchestrator.config.placeholders import texts_of
from orchestrator.config.schema import Config, Device, PlannerConfig, TrackingConfig
from orchestrator.config.words import AS_IT_IS, literal, literally
from orchestrator.config.yaml_text import yaml_text
from orchestrator.errors import ConfigError, near_miss
from orchestrator.installation import PACKAGE
from orchestrator.redact import learn

CPU_RANKS = 2
_PATHS = (
    "run_root", "run_dir", "calibration", "deepspeed_file", "job.script", "job.cwd", "job.checkpoint_dir",
    "job.corpus", "planner.published", "snapshot.dirs", "snapshot.trusted", "launch.working_dir",
    "cluster.topology.file",
)  # fmt: skip
# Keys of runs that are on a disk already, and what they are called now.
_RENAMED_KEYS = {
    "recovery.max_idle_faults": "max_faults_without_progress",
    "recovery.hang_unknown_s": "hang_timeout_cold_s",
    "recovery.agent_silence_s": "agent_timeout_s",
    "recovery.kill_after_s": "kill_grace_s",
    "recovery.unkillable_s": "sigkill_timeout_s",
}
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*['\"]?(\w+)")
_WHO_AND_WHERE = {"USER", "LOGNAME", "HOME", "HOSTNAME", "PWD", "SHELL", "LANG", "TZ", "TMPDIR"}


def conf_dir() -> Path:
    """Where ``conf/`` lies: inside the package in a wheel, beside it in a clone."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def usual_options() -> dict[str, str]:
    """The option of each group that is chosen where nobody chooses."""
    chosen = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"), resolve=False)
    entries = cast(dict[str, Any], chosen)["defaults"]
    named = [entry for entry in entries if isinstance(entry, dict)]
    return {group: str(option) for entry in named for group, option in entry.items()}


def register() -> None:
    """Make the schema and the resolvers known to Hydra; safe to call twice."""
    _store_schema()
    for resolver in (local_gpu, local_ranks, local_cpu_threads, local_gpu_memory):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver(AS_IT_IS, str, replace=True)


@functools.cache
def _store_schema() -> None:
    """Once: OmegaConf makes nodes of all its classes, which takes a sixth of the time to compose. A forked
    driver has them."""
    ConfigStore.instance().store(name="schema", node=Config)


def offer_files(words: Sequence[str]) -> None:
    """Make each file that words choose for ``deepspeed`` an option of that group, named as the words name it.

    Raises :class:`ConfigError` for one that cannot be read.
    """
    for path in deepspeed_file.chosen_files(words):
        folder, _, name = f"deepspeed/{path}".rpartition("/")
        node = {"deepspeed": literally(deepspeed_file.read(path)), "deepspeed_file": literal(path)}
        ConfigStore.instance().store(name, node, group=folder, package="_global_")


def hydra_composes(words: Sequence[str], folder: Path | None = None, name: str = "config") -> DictConfig:
    """What Hydra makes of the file ``name`` in ``folder`` and these words, with its own part ``hydra`` beside
    ours.

    It raises what Hydra raises: :mod:`~orchestrator.config.composing` has it for people.
    """
    with initialize_config_dir(str(folder or conf_dir()), version_base="1.3"):
        return cast(DictConfig, compose(name, list(words), return_hydra_config=True))


def local_ranks(device: Device) -> int:
    """As many ranks as there are GPUs, or two on processor cores."""
    return len(hardware.local_gpus()) if device is Device.cuda else CPU_RANKS


def local_cpu_threads(device: Device) -> int:
    """A GPU's share of the processor, or one thread for a rank that is a core."""
    return hardware.threads_per_gpu() if device is Device.cuda else 1


def local_gpu_memory() -> int:
    """Bytes of the first visible GPU; 0 without one."""
    return next((gpu.memory_bytes for gpu in hardware.local_gpus()), 0)


def local_gpu() -> str:
    """The option of ``conf/gpu`` that describes this machine's GPUs; ``cpu`` without any."""
    gpus = hardware.local_gpus()
    if not gpus:
        return "cpu"
    for path in sorted((conf_dir() / "gpu").glob("*.yaml")):
        names = OmegaConf.select(OmegaConf.load(path), "product_names") or []
        if any(name.lower() in gpus[0].product.lower() for name in names):
            return path.stem
    return "other_nvidia"


def load(composed: DictConfig) -> Config:
    """Plain, resolved dataclasses from what Hydra composed.

    Raises :class:`ConfigError` for a missing value, an interpolation that leads nowhere, a value of
    the wrong type and for ``_target_`` anywhere (nothing in a config is ever instantiated).
    """
    written = OmegaConf.to_container(composed, resolve=False)
    for path in _keys(written):
        if path.rsplit(".", 1)[-1] == "_target_":
            raise ConfigError(f"{path}: a config is data here and '_target_' would run code; remove the key")
    try:
        learn(written)
        learn(_from_environment(written), name="secret")
        config = cast(Config, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        if (why := _interpolates_nothing(written, error)) is not None:
            raise ConfigError(why) from None
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise ConfigError(f"{missing[0]}: no value given; set it, e.g. {missing[0]}=…") from None
        raise ConfigError(_said(error)) from None
    for path in _unknown(written, config):
        known = [key for key, _ in leaves(dataclasses.asdict(config))]
        raise ConfigError(f"{path}: no such key{near_miss(path, known)}; --cfg job prints all keys")
    learn(_told_as_secret(config.job.argv))
    learn_secrets(config.notify)
    for path, value in leaves(dataclasses.asdict(config)):
        if (why := _why_no_value(path, value)) is not None:
            raise ConfigError(f"{path}={papers.short(value)}: {why}")
    published_runs.fill(config.planner, conf_dir() / "planner")
    return config


def _interpolates_nothing(written: Any, error: OmegaConfBaseException) -> str | None:
    """Which key asks for the value of one that is not there, and what to write; None for other errors."""
    if not isinstance(error, InterpolationKeyError):
        return None
    found = re.search(r"'([^']+)' not found", str(error))
    name = found[1] if found else ""
    for path, value in leaves(written):
        if name and isinstance(value, str) and f"${{{name}}}" in value:
            return interpolates_nothing(path, value, name, list(_keys(written)))
    return None


def interpolates_nothing(key: str, value: str, name: str, known: Sequence[str]) -> str:
    """One line about a value that asks for that of a key which is not there."""
    return (
        f"{key}={papers.short(value)[1:-1]}: no key is called '{name}'{near_miss(name, known)}; name one that"
        f" is there, or write \\${{{name}}} for the text itself"
    )


def _unknown(written: Any, made: Any, prefix: str = "") -> Iterator[str]:
    """Keys that no schema has: a ``+`` makes Hydra add any, and nobody would miss what a misspelt one was to
    do."""
    if not dataclasses.is_dataclass(made) or not isinstance(written, dict):
        return
    fields = {field.name for field in dataclasses.fields(made)}
    for key, value in written.items():
        if key in fields:
            yield from _unknown(value, getattr(made, key), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _told_as_secret(argv: Sequence[str]) -> dict[str, str]:
    """What words of a command give by name: ``--api_key=VALUE``, ``--api_key VALUE``, ``api_key=VALUE``."""
    told: dict[str, str] = {}
    for place, word in enumerate(argv):
        name, equals, value = word.lstrip("-+").partition("=")
        if not equals and word.startswith("-") and place + 1 < len(argv):
            value = argv[place + 1]
        told[name] = value
    return told


def _said(error: OmegaConfBaseException) -> str:
    """The key, and the first line: what follows is OmegaConf's own affair. Either may quote what it found."""
    key = papers.one_line(str(getattr(error, "full_key", None) or "config"))
    return f"{key}: {papers.one_line(next(iter(str(error).splitlines()), type(error).__name__))}"


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container by its dotted path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, f"{prefix}[{index}]")
    else:
        yield prefix, node


def _why_no_value(path: str, value: Any) -> str | None:
    """What no key of ours can be, whatever it means. A script's arguments are its own affair, all but what is
    no number: a loss or a rate that is none would be paid for."""
    if isinstance(value, float) and math.isnan(value):
        quoted = f""" '{path}="nan"'""" if path.startswith("job.args.") else ""
        return f"not a number; set one{f', or write{quoted} for the word' if quoted else ''}"
    if path.startswith("job.args."):
        return None
    if isinstance(value, str) and "\0" in value:
        return "holds a zero character, which neither a file's name nor a variable can; leave it out"
    if (
        isinstance(value, str)
        and path.partition("[")[0] in _PATHS
        and (why := papers.why_no_path(value)) is not None
    ):
        return f"{why}; give a shorter one"
    return None


def _from_environment(written: Any) -> list[str]:
    """Values that a configuration takes from the environment, which is how secrets are kept out of it; not
    those that say who and where we are, numbers and addresses: a password in one of these is known by its
    form."""
    named = {name for text in texts_of(written) for name in _ENVIRONMENT.findall(text)} - _WHO_AND_WHERE
    values = [os.environ.get(name, "") for name in sorted(named)]
    return [value for value in values if not value.isdigit() and "://" not in value]


def load_tracking(composed: DictConfig) -> TrackingConfig:
    """The tracking part alone, for verbs that need no job."""
    learn(OmegaConf.to_container(composed.tracking, resolve=True))
    tracking = cast(TrackingConfig, OmegaConf.to_object(composed.tracking))
    ranges.check(tracking, "tracking.")
    return tracking


def load_planner(composed: DictConfig) -> PlannerConfig:
    """The planner's constants alone."""
    planner = cast(PlannerConfig, OmegaConf.to_object(composed.planner))
    ranges.check(planner, "planner.")
    published_runs.fill(planner, conf_dir() / "planner")
    return planner


def to_container(config: Config) -> dict[str, Any]:
    """Plain dicts and lists; enums as their names."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def defaults() -> dict[str, Any]:
    """What the schema says where nothing else does, in the form of :func:`to_container`; ``???`` is a value
    that it has not."""
    return cast(dict[str, Any], _plain(OmegaConf.to_container(OmegaConf.structured(Config))))


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return node.name if isinstance(node, Enum) else node


def from_container(
    container: dict[str, Any],
    changes: Mapping[str, Any] | None = None,
    followed: Mapping[str, str] | None = None,
) -> Config:
    """Inverse of :func:`to_container`: nothing is left to interpolate, and a text that looks so is a text.

    ``changes`` are other values by their keys, ``followed`` the values that follow other keys, by theirs: the
    texts that a file would have. Keys that an earlier version wrote under another name are read.

    Raises :class:`ConfigError` for what this version's schema does not know.
    """
    register()
    container = {section: _with_todays_keys(section, values) for section, values in container.items()}
    try:
        merged = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), literally(container)))
        for key, value in {**literally(dict(changes or {})), **(followed or {})}.items():
            OmegaConf.update(merged, key, value)
        return load(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_said(error)) from None


def _with_todays_keys(section: str, values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {_RENAMED_KEYS.get(f"{section}.{key}", key): value for key, value in values.items()}


def to_yaml(container: dict[str, Any]) -> str:
    """Plain dicts and lists as YAML text that Hydra reads as the same."""
    return yaml_text(literally(container))


def flatten(container: dict[str, Any]) -> dict[str, Any]:
    """Leaves by dotted key; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in container.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key below a container as a dotted path."""
    if isinstance(node, dict):
        for key, value in node.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield path
            yield from _keys(value, path)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _keys(value, f"{prefix}[{index}]")


def known_keys(composed: DictConfig) -> list[str]:
    """Every dotted key of a composed configuration, for naming a near miss."""
    return list(_keys(OmegaConf.to_container(composed, resolve=False)))
