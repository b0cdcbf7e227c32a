"""Refuse DeepSpeed configurations with keys that DeepSpeed would ignore without a word, and values it would
choke on.

What DeepSpeed reads is listed in ``deepspeed_keys.json``, which ``infra/generate_deepspeed_keys.py`` writes
from DeepSpeed's own parser. A node of it is a value's (see ``deepspeed_values``), or ``{"keys": ...}`` for a
section; ``open`` allows other keys too, ``scalar`` a plain value in place of a section, ``auto`` the word
auto in place of its values, ``removed`` marks what DeepSpeed once knew, ``deprecated`` what it still takes
under a newer name.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.deepspeed_values import AUTO, check_value
from orchestrator.errors import ConfigError, near_miss
from orchestrator.papers import short

# The longest of DeepSpeed's own has fifty letters.
MOST_OF_A_KEY = 100
_EXAMPLES = {
    "lr": "1e-4", "betas": "[0.9,0.999]", "eps": "1e-8", "weight_decay": "0.01", "warmup_max_lr": "1e-4",
    "warmup_num_steps": "100", "total_num_steps": "1000",
}  # fmt: skip
KEYS_FILE = Path(__file__).with_name("deepspeed_keys.json")


def check_deepspeed(config: Mapping[str, Any], by_script: Collection[str] = ()) -> None:
    """Check every key and value of a native DeepSpeed configuration, and its optimizer's and scheduler's
    type.

    ``by_script`` are full paths of the keys that may stay "auto" because the script fills them in.

    Raises ConfigError with the full key path, the nearest known name and the DeepSpeed version.
    """
    known = _known()
    version = f"DeepSpeed {known['deepspeed']}"
    config = without(config, by_script)
    _check_section(config, {"keys": known["keys"]}, "deepspeed", version)
    _check_named(config.get("optimizer"), known["optimizers"], "deepspeed.optimizer", version)
    _check_named(config.get("scheduler"), known["schedulers"], "deepspeed.scheduler", version)


def without(config: Mapping[str, Any], paths: Collection[str], where: str = "deepspeed") -> dict[str, Any]:
    """A copy that lacks those of the paths that are "auto"."""
    return {
        name: without(value, paths, f"{where}.{name}") if isinstance(value, Mapping) else value
        for name, value in config.items()
        if value != AUTO or f"{where}.{name}" not in paths
    }


def deprecated_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """Full path of each deprecated key in use, and the name that DeepSpeed wants instead."""
    found: dict[str, str] = {}
    _collect_deprecated(config, {"keys": _known()["keys"]}, "deepspeed", found)
    return found


@functools.cache
def _known() -> dict[str, Any]:
    return dict(json.loads(KEYS_FILE.read_text()))


def _check_section(section: Mapping[str, Any], node: Mapping[str, Any], path: str, version: str) -> None:
    keys: Mapping[str, Any] = node.get("keys", {})
    for name, value in section.items():
        child = keys.get(name)
        where = f"{path}.{_named(name)}"
        if child is None:
            if not node.get("open"):
                current = [key for key, value in keys.items() if not value.keys() & {"removed", "deprecated"}]
                raise ConfigError(f"{where}: {version} has no such key{_remedy(str(name), current)}")
        elif child.get("removed"):
            raise ConfigError(f"{where}: {version} has dropped this key; remove it")
        elif isinstance(value, Mapping):
            if "keys" not in child and not child.get("open"):
                raise ConfigError(
                    f"{where}={_named(value)}: {version} takes one value here, no section; e.g. {where}=1"
                )
            _check_section(value, child, where, version)
        elif "keys" in child and not child.get("scalar") and value is not None:
            some = next(iter(child["keys"]))
            raise ConfigError(
                f"{where}={_named(value)}: {version} takes a section here, e.g. {where}.{some}=..."
            )
        # null there is left out of the file
        elif "keys" not in child and not (value is None and path == "deepspeed"):
            check_value(where, value, child, version, "auto" in node)


def _check_named(section: Any, known: Mapping[str, Any], path: str, version: str) -> None:
    """Optimizer or scheduler: its type must exist; of its parameters only near misses are refused, since
    what a type takes is its own affair."""
    if not isinstance(section, Mapping):
        return
    kind = section.get("type")
    if kind is not None and str(kind) not in known["torch"] and not _is_own(str(kind), known, path):
        names = [*known["names"], *known["torch"]]
        raise ConfigError(
            f"{path}.type={_named(kind)}: neither {version} nor torch has it{_remedy(str(kind), names)} "
            f"(DeepSpeed's own: {', '.join(known['names'])})"
        )
    parameters = section.get("params")
    for name in parameters if isinstance(parameters, Mapping) else ():
        close = difflib.get_close_matches(str(name), known["params"], n=1, cutoff=0.8)
        if close and name not in known["params"]:
            raise ConfigError(
                f"{path}.params.{_named(name)}: nothing takes this parameter; did you mean '{close[0]}'?"
            )
        if isinstance(parameters, Mapping) and parameters[name] == AUTO:
            where = f"{path}.params.{_named(name)}"
            raise ConfigError(
                f"{where}=auto: no argument of the script has a value for it, and neither {version} nor a"
                f" script without transformers and accelerate fills it in; write e.g. {where}="
                f"{_EXAMPLES.get(str(name), 1)}"
            )


def _is_own(kind: str, known: Mapping[str, Any], path: str) -> bool:
    """DeepSpeed ignores case in its optimizers' names, not in its schedulers'."""
    return (kind.lower() if path.endswith("optimizer") else kind) in known["names"]


def _collect_deprecated(
    section: Mapping[str, Any], node: Mapping[str, Any], path: str, found: dict[str, str]
) -> None:
    for name, value in section.items():
        child = node.get("keys", {}).get(name, {})
        if "deprecated" in child:
            found[f"{path}.{name}"] = child["deprecated"]
        if isinstance(value, Mapping):
            _collect_deprecated(value, child, f"{path}.{name}", found)


def _named(key: object) -> str:
    """A key as it is typed, where it can be."""
    text = str(key) if isinstance(key, str | bool) else short(key)
    return text if text.isprintable() and len(text) <= MOST_OF_A_KEY else short(text)


def _remedy(name: str, known: Iterable[str]) -> str:
    return near_miss(name, known) or "; remove it"
