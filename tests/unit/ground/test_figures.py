"""One formatter: the same value reads the same wherever it is shown, and what is shown is the value."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator import text
from orchestrator.text import (
    UNKNOWN,
    bytes_in_words,
    count,
    energy_in_words,
    hours_in_words,
    months_in_words,
    power_in_words,
    seconds_in_words,
    usd,
    with_prefix,
)

PACKAGE = Path(orchestrator.__file__).parent
MAGNITUDES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def value_of(shown: str, units: dict[str, float]) -> float:
    found = re.fullmatch(r"(-?)\$?([\d,]+(?:\.\d+)?) ?([^\d\s]*)", shown)
    assert found is not None, shown
    return (-1 if found[1] else 1) * float(found[2].replace(",", "")) * units[found[3]]


@given(st.floats(-1e15, 1e15).filter(lambda value: value == 0 or abs(value) > 1e-9))
def test_dollars_are_the_value_to_three_digits_or_to_the_cent(value: float) -> None:
    assert value_of(usd(value), MAGNITUDES) == pytest.approx(
        value, rel=0.0051, abs=0.0051 if abs(value) >= 1 else 0
    )
    assert usd(-value) == usd(value).removeprefix("-") if value < 0 else True


@given(st.floats(1e-9, 1e15), st.floats(1.0, 1.5))
def test_more_dollars_never_read_as_less(value: float, factor: float) -> None:
    assert value_of(usd(value * factor), MAGNITUDES) >= value_of(usd(value), MAGNITUDES) * (1 - 1e-9)


@given(st.just(0.0) | st.floats(1e-3, 1e15))
def test_counts_and_bytes_and_seconds_are_the_value_to_three_digits(value: float) -> None:
    assert value_of(count(value), MAGNITUDES) == pytest.approx(value, rel=0.0051, abs=0.01)
    sizes = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
    assert value_of(bytes_in_words(value), sizes) == pytest.approx(value, rel=0.0051, abs=0.51)
    if 1e-6 < value < 1e12:
        shown = seconds_in_words(value)
        assert value_of(shown, {"s": 1.0, "ms": 1e-3, "µs": 1e-6}) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (usd(0), "$0.00"), (usd(0.00184), "$0.00184"), (usd(1e-9), "$0.00000000100"), (usd(12.3), "$12.30"),
        (usd(9300.12), "$9,300.12"), (usd(9999.999), "$10,000"), (usd(345_678), "$345,678"),
        (usd(999_999), "$1M"), (usd(16_900_000), "$16.9M"), (usd(1.2e9), "$1.2B"), (usd(3e12), "$3T"),
        (usd(-12.3), "-$12.30"), (usd(-1.2e9), "-$1.2B"), (usd(None), UNKNOWN), (usd(float("nan")), UNKNOWN),
        (seconds_in_words(38.54), "38.5 s"), (seconds_in_words(0.21), "210 ms"),
        (seconds_in_words(4.2e-5), "42 µs"), (seconds_in_words(12_345), "12,345 s"),
        (bytes_in_words(81_234_000_000), "81.2 GB"), (bytes_in_words(81_234_000), "81.2 MB"),
        (count(1_870_000), "1.87M"), (count(70_553_706_496), "70.6B"), (count(15e12), "15T"),
        (count(12), "12"), (count(999_700), "1M"), (count(12_345), "12.3k"), (count(-12_345), "-12.3k"),
        (count(4e16), "40,000T"), (hours_in_words(1.5), "1.50 hours"), (hours_in_words(49), "2.0 days"),
        (with_prefix(45e9), "45 G"), (energy_in_words(12.3), "12.3 kWh"),
        (energy_in_words(4560), "4,560 kWh"), (energy_in_words(1.2e6), "1.2 GWh"),
        (power_in_words(11_200), "11.2 kW"), (power_in_words(1.3e6), "1.3 MW"),
    ],
)  # fmt: skip
def test_figures_are_short(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (months_in_words(9.44), "9.4 months"),
        (months_in_words(38), "3.2 years"),
    ],
)
def test_months_are_for_people(shown: str, expected: str) -> None:
    assert shown == expected


def test_nobody_else_makes_figures() -> None:
    """Dollars, magnitudes and bytes are put into words in one place."""
    names = {"usd", "count", "bytes_in_words", "seconds_in_words", "percent", "duration", "size", "si"}
    dollars = re.compile(r"\$\{[^}]*:[^}]*f\}")
    for path in PACKAGE.rglob("*.py"):
        if path == Path(text.__file__):
            continue
        code = path.read_text()
        own = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)} & names
        assert not own, path
        if "per GPU-hour" not in code and "-hour" not in code:  # a price has its own digits
            assert not dollars.search(code), path
