"""The documents agree with the schema and with each other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from infra import generate_reference
from tests.support.folders import PROJECT

ROOT = PROJECT
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "clusters").glob("*.md")),
]
GENERATOR = ROOT / "infra" / "generate_configuration_reference.py"

FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`+[^`\n]+`+")
LINK = re.compile(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
EXPLICIT_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")


def module_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return module_from(GENERATOR)


def anchors(document: Path) -> set[str]:
    """Anchors as GitHub makes them: lower case, spaces as hyphens, punctuation dropped, repeats numbered."""
    text = FENCED.sub("", document.read_text())
    found = set(EXPLICIT_ANCHOR.findall(text))
    for heading in HEADING.findall(text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        repeats = 0
        while (anchor := f"{slug}-{repeats}" if repeats else slug) in found:
            repeats += 1
        found.add(anchor)
    return found


def broken_links(document: Path) -> list[str]:
    """Relative links of a document that lead nowhere; links in code are no links."""
    text = INLINE_CODE.sub("code", FENCED.sub("", document.read_text()))
    broken = []
    for link in (inline or reference for inline, reference in LINK.findall(text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, fragment = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and (target.suffix != ".md" or fragment not in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    headings = "# What *it* `does`, twice\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n"
    (tmp_path / "other.md").write_text(headings)
    good = (
        "[a](other.md) [b](other.md#what-it-does-twice) [c](other.md#twice-1) [d](https://x.org/y)"
        " [`e`](#page)"
    )
    code = "`[no](link.md)`\n\n```\n[no](link.md)\n```\n"
    bad = ["gone.md", "other.md#thrice", "other.md#no-heading", "#gone", "gone.png", "gone/"]
    links = '[a]({}) [b]({}) [c]({}) [d]({} "title") [![e]({})](other.md)\n\n[f]: {}\n'.format(*bad)
    page.write_text(f"# Page\n\n{good}, {code}{links}")
    assert broken_links(page) == bad


def test_the_configuration_reference_is_what_the_schema_and_conf_say(generator: ModuleType) -> None:
    assert generator.TARGET.read_text() == generator.generate(), (
        "docs/configuration.md is stale: run make docs"
    )


def test_the_reference_is_what_the_code_says() -> None:
    page = generate_reference.generate()
    assert generate_reference.TARGET.read_text() == page, "docs/reference.md is stale: run make docs"
    assert [line for line in page.splitlines() if len(line) > 110 and not line.startswith("|")] == []


def test_the_reference_takes_meanings_from_comments_and_docstrings(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sample.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class SampleConfig:\n"
        '    """A sample, e.g. this one. ``named``: what the docstring says of it, whole."""\n'
        "    # above the line,\n"
        "    # and on\n"
        "    above: int = 1\n"
        "    beside: str | None = None  # on ``the`` line | with a bar\n"
        "    named: bool = False\n"
        "    bare: float = 2.0\n"
    )
    sample = module_from(tmp_path / "sample.py")
    sample.Config = None
    monkeypatch.setattr(generator, "schema", sample)
    assert generator.split_docstring(sample.SampleConfig)[0] == "A sample, e.g. this one."
    assert generator.keys_table(sample.SampleConfig, "s.")[2:-1] == [
        "| `s.above` | integer | `1` | above the line, and on |",
        "| `s.beside` | text, or null | `null` | on `the` line \\| with a bar |",
        "| `s.named` | true or false | `false` | what the docstring says of it, whole. |",
        "| `s.bare` | number | `2.0` |  |",
    ]


def test_the_summary_of_the_benchmarks_says_what_their_sections_say() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = re.findall(r"^\| \[([^\]]+)\]\(#[^)]+\) \| (.+) \|$", page, re.MULTILINE)
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE))
    assert [title for title, _ in rows] == list(sections)
    for title, told in rows:
        missing = [figure for figure in re.findall(r"\d[\d.,]*\d|\d", told) if figure not in sections[title]]
        assert not missing, f"{title}: the summary at the top says {missing}, its section does not"


def test_a_word_is_explained_once() -> None:
    table = (ROOT / "docs" / "concepts.md").read_text().partition("\n## ")[0]
    words = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    assert sorted(words) == sorted(set(words))
