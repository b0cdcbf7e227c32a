"""Whether a value stands for another one, asked of what is written and not of how Python prints it."""

from __future__ import annotations

import pytest

from orchestrator.config.placeholders import INTERPOLATION, OF_HYDRA, asks_for, refers_to, texts_of


def test_texts_are_found_at_any_depth_and_names_of_keys_are_none() -> None:
    written = {"${a}": 1, "b": ["x", {"c": "${d}", "e": None}], "f": {"g": "y"}, "h": True}
    assert list(texts_of(written)) == ["x", "${d}", "y"]
    assert asks_for(INTERPOLATION, texts_of(written))
    assert not asks_for(INTERPOLATION, texts_of({"${a}": 1}))
    assert not asks_for(OF_HYDRA, texts_of(written))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${job.micro_batch}", True),
        ("${jobs.x}", False),
        ("x ${job.micro_batch}", False),
        (8, False),
        (None, False),
    ],
)
def test_a_value_refers_to_a_group_by_one_of_its_keys(value: object, expected: bool) -> None:
    assert refers_to("job", value) is expected
