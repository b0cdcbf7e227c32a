"""Every number of the schema has a range, and what is out of it is refused with a number that is not."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.config import ranges
from orchestrator.config.schema import Config, LayoutConfig, ModelConfig, RecoveryConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import check_values


def numbers(owner: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every field of the schema that holds numbers: its key, its class and the field."""
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        parts = flat(hints[field.name])
        section = next((part for part in parts if dataclasses.is_dataclass(part)), None)
        if section is not None and dict not in parts:
            yield from numbers(section, f"{prefix}{field.name}.")
        elif {int, float} & parts:
            yield f"{prefix}{field.name}", owner, field


def flat(hint: Any) -> set[Any]:
    """The types in a type."""
    inner = typing.get_args(hint)
    own = {typing.get_origin(hint)} if inner else {hint}
    return own.union(*(flat(part) for part in inner))


def test_every_number_has_a_range_which_its_default_is_in() -> None:
    found = list(numbers())
    assert len(found) > 100
    for key, owner, field in found:
        bounds = ranges.range_of(owner, field.name)
        assert bounds is not None, f"{key}: give its type a range of config/ranges.py"
        assert bounds.why_not(bounds.example) is None, f"{key}: its example is not in its range"
        if isinstance(field.default, int | float):
            assert bounds.why_not(field.default) is None, f"{key}: its default is not in its range"


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (ranges.Range(0, 9, 1), (0, 9, 0.5), (-1, 10, math.inf, -math.inf, math.nan)),
        (ranges.Range(0, 9, 1, above=True), (1, 9, 1e-300), (0, -0.0, 10, math.nan)),
        (ranges.Range(0, 9, 1, or_infinite=True), (0, math.inf), (10, -math.inf, math.nan)),
    ],
)
def test_ends_of_a_range(bounds: ranges.Range, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert [value for value in inside if bounds.why_not(value)] == []
    assert [value for value in outside if not bounds.why_not(value)] == []


def test_a_refusal_names_the_key_the_value_and_what_to_type() -> None:
    for section, prefix, said in (
        (RecoveryConfig(stop_grace_s=math.inf), "recovery.", "recovery.stop_grace_s=inf: must be finite, at most 1e+09; write e.g. recovery.stop_grace_s=30"),
        (RecoveryConfig(max_restarts=-1), "recovery.", "recovery.max_restarts=-1: must be 0 or more; write e.g. recovery.max_restarts=3"),
        (RecoveryConfig(hang_after_s=0), "recovery.", "recovery.hang_after_s=0: must be greater than 0; write e.g. recovery.hang_after_s=30 or recovery.hang_after_s=null"),
        (LayoutConfig(tp=10**40), "layout.", "layout.tp=a number of more than 19 digits: must be at most 1e+06; write e.g. layout.tp=1"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            ranges.check(section, prefix)
        assert str(refused.value) == said


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("cluster.nics_per_node", (-1,)),
        ("cluster.pue", (0.9, math.nan, math.inf)),
        ("cluster.power_limit_w", (0.0, -1.0)),
        ("cluster.node_power_w", (-1.0,)),
        ("cluster.storage_bytes_per_s", (0.0,)),
        ("cluster.price.usd_per_gpu_hour", (-1.0, math.nan)),
        ("cluster.price.spot_usd_per_gpu_hour", (0.0, -1.0)),
        ("cluster.price.spot_node_hours_per_interruption", (0.0, math.nan)),
        ("cluster.price.capex_usd_per_gpu", (-1.0,)),
        ("cluster.price.lifetime_years", (0.0, -3.0)),
        ("cluster.price.pue", (0.9,)),
        ("cluster.price.occupancy", (0.0, 1.1)),
        ("fabric.nics", (0,)),
        ("fabric.latency_s", (-1.0,)),
        ("fabric.efficiency", (0.0, 1.5)),
        ("recovery.gpu_hours_per_failure", (0.0, -1.0, math.nan)),
    ],
)
def test_the_arithmetic_of_a_plan_is_spared_what_it_cannot_count_with(
    key: str, values: tuple[float, ...]
) -> None:
    """Prices, power, networks and failures are computed from these without another look at them."""
    *path, name = key.split(".")
    for value in values:
        config = Config()
        owner: Any = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, name, value)
        with pytest.raises(
            ConfigError, match=rf"^{re.escape(key)}=\S+: must be|^{re.escape(key)}=nan: is not"
        ):
            check_values(config)


def test_maps_and_sections_are_looked_through_and_what_has_no_value_is_not() -> None:
    config = Config()
    ranges.check(config)  # what is still to be given has no number to look at
    config.gpu.peak_flops = {"bf16": 1e15, "fp8": -1.0}
    with pytest.raises(ConfigError, match=r"^gpu\.peak_flops\.fp8=-1: must be 1 or more"):
        ranges.check(config)
    config.gpu.peak_flops = {}
    config.planner.matmul_efficiency = {"hopper": {"bf16": 1.5}}
    with pytest.raises(
        ConfigError, match=r"^planner\.matmul_efficiency\.hopper\.bf16=1\.5: must be at most 1"
    ):
        ranges.check(config)


def test_a_program_that_sets_a_number_is_held_to_the_same() -> None:
    config = Config(model=ModelConfig(layers=-3))
    with pytest.raises(ConfigError, match=r"^model\.layers=-3: must be greater than 0"):
        check_values(config)
