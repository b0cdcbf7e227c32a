"""What is installed is what was written down, and under licences that are taken."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from types import ModuleType

import pytest

from tests.support.folders import PROJECT

ROOT = PROJECT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_constraints", ROOT / "infra" / "generate_constraints.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    lines = (ROOT / "infra" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_what_is_installed_has_the_versions_that_were_written_down(
    generator: ModuleType, pinned: dict[str, str]
) -> None:
    installed = {package.name: package.version for package in generator.packages()}
    assert {
        name: version for name, version in installed.items() if pinned.get(name, version) != version
    } == {}
    head = (ROOT / "infra" / "constraints.txt").read_text().splitlines()[0]
    if f"Python {sys.version_info.major}.{sys.version_info.minor}:" in head:  # others need other packages
        assert set(pinned) <= set(installed), "what nobody needs any more is not written down"


def test_what_is_asked_for_is_written_down(pinned: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = [re.split(r"[\[<>=~!;\s]", each)[0].lower() for each in asked]
    assert [name for name in names if name not in pinned] == []


def test_the_document_lists_them(pinned: dict[str, str]) -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| ")
    ]
    assert {name: version for name, version, _ in rows[1:]} == pinned
    assert all(licence for _, _, licence in rows)


def test_every_licence_is_one_that_is_taken(generator: ModuleType) -> None:
    assert generator.refused(generator.packages()) == []


@pytest.mark.parametrize(
    ("licence", "taken"),
    [
        ("MIT", True),
        ("GPL-2.0-or-later OR Apache-2.0", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("GNU Affero General Public License v3", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_which_licences_are_taken(generator: ModuleType, licence: str, taken: bool) -> None:
    assert (generator.refused([generator.Package("x", "1", licence)]) == []) == taken
