"""What is written as YAML is what OmegaConf writes, and reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.config import load
from orchestrator.config.yaml_text import yaml_text

ODD = [
    "1e-3", "1e3", "1_000", "0x1F", "0o17", "017", "1:30", "12:30:45", ".5", "5.", "-.inf", "inf", "nan", ".nan",
    "yes", "No", "on", "OFF", "true", "False", "y", "N", "null", "~", "", " ", "a: b", "- a", "#a", "a #b",
    "2026-11-29", "=", "<<", "*a", "&a", "!a", "%a", "@a", "`a", "{a}", "[a]", "'", '"', "a\nb", "a\n", "\ttab",
    "é", "日本", "\u2028", "\x7f", "?", "? a", ":", ",", "---", "...", "x" * 300, "word " * 60,
]  # fmt: skip


def read(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text))


@pytest.mark.parametrize("text", ODD)
def test_an_odd_text_stays_what_it_is(text: str) -> None:
    values = {"key": text, "list": [text, {"in": text}]}
    assert read(yaml_text(values)) == values


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(ODD)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.text("abcde_", min_size=1, max_size=5),
        st.recursive(
            LEAVES,
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        min_size=1,
    )
)
def test_values_of_all_kinds_stay_what_they_are(values: dict[str, Any]) -> None:
    assert read(yaml_text(values)) == values


def test_a_configuration_is_written_as_omegaconf_writes_it() -> None:
    values = load.defaults()
    assert yaml_text(values) == OmegaConf.to_yaml(OmegaConf.create(values))
