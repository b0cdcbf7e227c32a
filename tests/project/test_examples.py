"""What infra/examples and infra/monitoring ship is what is rendered: there is no second truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from infra import generate_examples


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    return dict(generate_examples.rendered())


def test_the_examples_are_as_they_would_be_rendered_today(made: dict[Path, str]) -> None:
    there = generate_examples.shipped()
    assert there.keys() == made.keys()
    assert [path for path, text in made.items() if there[path] != text] == [], "type: make docs"


def test_nothing_is_left_open_in_them(made: dict[Path, str]) -> None:
    for path, text in made.items():
        assert "None" not in text, path
        if path.suffix == ".yaml":
            assert all(yaml.safe_load_all(text)), path


def test_every_format_has_one() -> None:
    from orchestrator.export.formats import FORMATS

    shown = {words[0].partition("=")[2] for words in generate_examples.EXAMPLES.values()}
    assert shown == FORMATS.keys()
