"""The fields of what is written as JSON, from the types that it is written from."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from infra.field_docs import comments_of, field_names, prose, sentences, split_docstring, table, without_none
from orchestrator.agent.zygote_pool import ZygoteReport
from orchestrator.cli.show.layouts import Searched
from orchestrator.cluster.overview import Node
from orchestrator.plan.forecast.interruptions import Forecast
from orchestrator.plan.perf.memory import Memory
from orchestrator.plan.plan import DERIVED_FORECAST, DERIVED_MEMORY, Plan, in_bytes

# What is told beside the fields: properties and methods by their own docstrings.
DERIVED: dict[Any, Sequence[str]] = {Plan: ("command",), Memory: DERIVED_MEMORY, Forecast: DERIVED_FORECAST}
# Whose fields are among those of another.
JOINED: dict[Any, Any] = {Plan: Searched}
# Types that the code imports for its checks alone.
NAMED = {"Node": Node, "ZygoteReport": ZygoteReport}
UNITS = {
    r"_nats_per_token$": "nats per token",
    r"usd_per_million_tokens$": "US dollars per million tokens",
    r"usd_per_(gpu_)?hour$": "US dollars per hour",
    r"usd_per_step$": "US dollars per step",
    r"flops_per_token$": "FLOP per token",
    r"flops_per_gpu$": "FLOP/s",
    r"tokens_per_s_per_gpu$": "tokens per second and GPU",
    r"tokens_per_s$": "tokens per second",
    r"tokens_per_step$": "tokens per step",
    r"tokens_per_parameter$": "tokens per parameter",
    r"over_predicted": "ratio",
    r"unix_s$": "seconds since 1970",
    r"_s$|^seconds": "seconds",
    r"(^|_)usd(_|$)": "US dollars",
    r"_bytes$": "bytes",
    r"^(mean_)?[mh]fu$|goodput$|_error$|_share$": "share",
    r"gpu_hours": "GPU-hours",
    r"(^|_)hours(_|$)": "hours",
    r"(^|_)days$": "days",
    r"_kwh$": "kWh",
    r"_w$": "watts",
    r"(^|_)tokens$": "tokens",
    r"_sequences$": "sequences",
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field as it is written: ``null`` says when it is null, "" for one that never is."""

    name: str
    annotation: Any
    required: bool
    meaning: str
    null: str


def unit_of(name: str) -> str:
    """What a name says of its unit."""
    return next((unit for pattern, unit in UNITS.items() if re.search(pattern, name)), "")


def is_object(kind: Any) -> bool:
    """Whether it is described field by field."""
    return dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)


def title(owner: Any) -> str:
    """``RunnerUpJson`` is *Runner up*."""
    words = re.findall(r"[A-Z][a-z]*", re.sub("(Json|Config)$", "", owner.__name__))
    return " ".join(words).capitalize()


def link(owner: Any) -> str:
    return f"[{title(owner)}](#{title(owner).lower().replace(' ', '-')})"


def object_in(annotation: Any) -> Any:
    """The described type that an annotation holds, None where there is none."""
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.get_args(annotation)[1]
    if isinstance(annotation, type) and is_object(annotation):
        return annotation
    found = (object_in(part) for part in typing.get_args(annotation))
    return next((kind for kind in found if kind is not None), None)


def type_name(annotation: Any) -> str:
    """In a reader's words."""
    kind, optional = without_none(annotation)
    return _bare_name(kind) + (", or null" if optional else "")


def _bare_name(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.NotRequired:
        return type_name(arguments[0])
    if origin is typing.Annotated:
        return link(arguments[1])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "map" if arguments[1] is Any else f"map of {type_name(arguments[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"list of {type_name(arguments[0])}"
    if is_object(kind):
        return link(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{member.value}`" for member in kind)
    return {"str": "text", "bool": "true or false", "int": "integer", "float": "number"}[kind.__name__]


def fields_of(owner: Any) -> list[Field]:
    """As they are written. Raises ``ValueError`` for one that says not what it means, or not when it is
    null."""
    found = [_field(owner, name) for name in field_names(owner)]
    if owner is Memory:
        found = [dataclasses.replace(field, name=in_bytes(field.name)) for field in found]
    found += [_derived(owner, name) for name in DERIVED.get(owner, ())]
    return found + (fields_of(JOINED[owner]) if owner in JOINED else [])


def hints_of(owner: Any) -> dict[str, Any]:
    """The range of a number is not told; that a key of a TypedDict may be missing is."""
    return typing.get_type_hints(owner, localns=NAMED, include_extras=not dataclasses.is_dataclass(owner))


def comment_of(owner: Any, name: str) -> str:
    """What stands at the field, in the class or in the base that it is from."""
    ours = [base for base in owner.__mro__ if base.__module__ not in ("builtins", "typing")]
    found = (comments_of(sys.modules[base.__module__]).get((base.__name__, name)) for base in ours)
    return next((text for text in found if text), "")


def _field(owner: Any, name: str) -> Field:
    annotation = hints_of(owner)[name]
    required = typing.get_origin(annotation) is not typing.NotRequired
    inner = annotation if required else typing.get_args(annotation)[0]
    comment = prose(comment_of(owner, name)) or split_docstring(owner)[1].get(name, "").removeprefix(
        f"`{name}`: "
    )
    meaning, null = _split(comment)
    optional = without_none(inner)[1]
    if optional and not null:
        whole = re.search(r"\bNone (where [^.;]+)", " ".join((owner.__doc__ or "").split()))
        null = whole[1] if whole else ""
    if not meaning or (optional and not null):
        raise ValueError(
            f"{owner.__module__}.{owner.__name__}.{name}: say in a comment what it is, and when null"
        )
    # In JSON an infinity is null too, which no annotation says.
    return Field(name, inner | None if null else inner, required, meaning, null)


def _split(comment: str) -> tuple[str, str]:
    """The meaning, and when it is null: what follows ``; null``."""
    meaning, _, null = comment.partition("; null ")
    return meaning, null


def _derived(owner: Any, name: str) -> Field:
    said = getattr(owner, name)
    function: types.FunctionType = said.fget if isinstance(said, property) else said
    meaning = prose(sentences(function.__doc__)[0])
    return Field(name, typing.get_type_hints(function)["return"], True, meaning, "")


def object_table(owner: Any) -> list[str]:
    rows = []
    for field in fields_of(owner):
        unit = unit_of(field.name)
        rows.append([f"`{field.name}`", type_name(field.annotation), unit, field.meaning, field.null])
    return table(["field", "type", "unit", "meaning", "null"], rows)


def reached(roots: Sequence[Any]) -> list[Any]:
    """The described types in the order in which a reader meets them."""
    found: dict[Any, None] = {}

    def visit(owner: Any) -> None:
        if owner not in found:
            found[owner] = None
            for field in fields_of(owner):
                if (inner := object_in(field.annotation)) is not None:
                    visit(inner)

    for root in roots:
        visit(root)
    return list(found)


def differences(value: Any, annotation: Any, where: str = "") -> list[str]:
    """Where a written value is not what its type says: keys that are missing or unknown, and nulls."""
    kind, optional = without_none(annotation)
    if value is None:
        return [] if optional else [f"{where} is null, and its type does not say so"]
    if isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return [
            told for place, one in enumerate(value) for told in differences(one, inner, f"{where}[{place}]")
        ]
    owner = object_in(kind)
    if owner is None or not isinstance(value, dict):
        return []
    if (
        (origin := typing.get_origin(kind)) is not None
        and isinstance(origin, type)
        and issubclass(origin, Mapping)
    ):
        inner = typing.get_args(kind)[1]
        return [told for key, one in value.items() for told in differences(one, inner, f"{where}.{key}")]
    fields = {field.name: field for field in fields_of(owner)}
    told = [f"{where}.{key} is not described" for key in value if key not in fields]
    told += [
        f"{where}.{name} is missing" for name, field in fields.items() if field.required and name not in value
    ]
    for name, field in fields.items():
        if name in value:
            told += differences(value[name], field.annotation, f"{where}.{name}")
    return told
