"""YAML as people write it, and the words at the head of a file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from orchestrator.errors import ConfigError

WIDTH = 110


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no annotations
    """Keeps the order of keys, repeats what is the same, and writes several lines as a block."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def in_yaml(*documents: Mapping[str, Any]) -> str:
    """Documents, one after the other; what is None in them is left out."""
    written = (
        yaml.dump(_without_none(one), Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)
        for one in documents
    )
    return "---\n".join(written)


def comment(*paragraphs: str) -> str:
    """Sentences as lines of a comment."""
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += textwrap.wrap(paragraph, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def pairs(key: str, given: Iterable[str]) -> dict[str, str]:
    """``NAME:VALUE`` texts as a map.

    Raises :class:`ConfigError` for one that is none.
    """
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not name or not colon or not value:
            raise ConfigError(f"{key}=[{text}]: is not NAME:VALUE; write e.g. '{key}=[rdma/ib:8]'")
        found[name] = value
    return found


def _without_none(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_none(value) for key, value in node.items() if value is not None}
    if isinstance(node, list | tuple):
        return [_without_none(value) for value in node]
    return node
