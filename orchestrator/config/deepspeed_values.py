"""Whether a value of a DeepSpeed configuration is one that DeepSpeed takes.

A value's node in ``deepspeed_keys.json`` has ``is`` for its kinds, ``gt``, ``ge``, ``lt``, ``le`` for its
bounds, ``of`` for all that it may be, ``null`` where null is one, ``default`` for DeepSpeed's; ``{}`` is not
known, and anything goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import ConfigError, near_miss
from orchestrator.papers import LARGEST, short

MOST_SHOWN = 60
AUTO = "auto"
# DeepSpeed has defaults for "auto" in these, or a trainer fills it in; but a plan computes with them.
_PLANNED = (
    "deepspeed.zero_optimization.stage", "deepspeed.zero_optimization.overlap_comm",
    "deepspeed.zero_optimization.max_live_parameters",
    "deepspeed.zero_optimization.stage3_max_live_parameters",
    "deepspeed.zero_optimization.zero_hpz_partition_size",
)  # fmt: skip
_PLANNED_ENDS = (".enabled", "_bucket_size", ".device")
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
}
_SIDES = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}


def check_value(where: str, value: Any, node: Mapping[str, Any], version: str, auto: bool) -> None:
    """Raises :class:`ConfigError` with the key, the value and what to write. ``auto``: DeepSpeed itself has a
    default for that word."""
    if "is" not in node and "of" not in node:
        return
    if value is None and node.get("null"):
        return
    if value == AUTO and AUTO not in node.get("of", ()) and "str" not in node.get("is", ""):
        if auto and where not in _PLANNED and not where.endswith(_PLANNED_ENDS):
            return
        raise ConfigError(
            f"{where}=auto: nothing fills it in here, and the run has to know it; write e.g."
            f" {where}={_example(node)}"
        )
    if any(_is(kind, value) for kind in _kinds(node)) and _within(value, node):
        return
    if "of" in node and any(type(value) is type(one) and value == one for one in node["of"]):
        return
    shown = (
        value if isinstance(value, str) and value.isprintable() and len(value) <= MOST_SHOWN else short(value)
    )
    if value is None or isinstance(value, bool):
        shown = "null" if value is None else str(value).lower()
    known = [str(one) for one in node.get("of", ())]
    raise ConfigError(
        f"{where}={shown}: {version} takes {_expected(node)} here{near_miss(shown, known)}; write e.g. "
        f"{where}={_example(node)}"
    )


def _kinds(node: Mapping[str, Any]) -> list[str]:
    return str(node["is"]).split("|") if "is" in node else []


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    if kind == "bool":
        return isinstance(value, int) and value in (0, 1)
    if kind == "int":
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and abs(value) <= LARGEST
    if kind == "float":
        return isinstance(value, int | float) and abs(value) < math.inf
    return isinstance(value, list | tuple if kind == "list" else str)


def _within(value: Any, node: Mapping[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return (
        not value <= node.get("gt", -math.inf)
        and value >= node.get("ge", -math.inf)
        and not value >= node.get("lt", math.inf)
        and value <= node.get("le", math.inf)
    )


def _expected(node: Mapping[str, Any]) -> str:
    if "of" in node:
        return "one of " + ", ".join(map(str, node["of"]))
    bounds = [f" {word} {node[side]:g}" for side, word in _SIDES.items() if side in node]
    return (
        " or ".join(_WORDS[kind] for kind in _kinds(node))
        + "".join(bounds)
        + (", or null" if node.get("null") else "")
    )


def _example(node: Mapping[str, Any]) -> str:
    """DeepSpeed's default, or another value that is one."""
    if (default := node.get("default")) is not None:
        return str(default).lower() if isinstance(default, bool) else str(default)
    kind = _kinds(node)[-1]
    return {"bool": "true", "int": "1", "float": "1.0", "str": "TEXT", "list": "[]"}[kind]
