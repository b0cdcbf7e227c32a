"""What the code says of its own fields: their types, and their meanings from comments and docstrings.

A field's meaning is its comment, on the line or on lines of their own right above it; without one, the
sentences of its class's docstring that name it in backticks.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import re
import textwrap
import tokenize
import types
import typing
from typing import Any

WIDTH = 110
# After "e.g." and "i.e." the sentence goes on.
SENTENCE_END = re.compile(r"(?<=\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z`])")


@functools.cache
def comments_of(module: types.ModuleType) -> dict[tuple[str, str], str]:
    """(class, field) -> the comment on the field's line, or on lines of their own right above it."""
    source = inspect.getsource(module)
    comments, own_line = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            comments[line] = token.string.lstrip("#: ")
            if not token.line[:column].strip():
                own_line.add(line)
    found: dict[tuple[str, str], str] = {}
    for node in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        # A TypedDict does not know its bases any more once it is made.
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        found |= {(node.name, name): text for (owner, name), text in found.items() if owner in bases}
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                above = item.lineno
                while above - 1 in own_line:
                    above -= 1
                lines = [*range(above, item.lineno), item.end_lineno or item.lineno]
                found[node.name, item.target.id] = " ".join(
                    comments[line] for line in lines if line in comments
                )
    return found


def sentences(text: str | None) -> list[str]:
    return SENTENCE_END.split(" ".join((text or "").split())) if text else []


def split_docstring(owner: type) -> tuple[str, dict[str, str]]:
    """What a class's docstring says of the whole, and of each field that it names."""
    names = set(field_names(owner))
    whole, by_key = [], {}
    for sentence in sentences(owner.__doc__):
        named = names & set(re.findall(r"`(\w+)`", sentence))
        for name in named:
            by_key[name] = f"{by_key[name]} {sentence}" if name in by_key else sentence
        if not named:
            whole.append(sentence)
    return prose(" ".join(whole)), {name: prose(text) for name, text in by_key.items()}


def field_names(owner: Any) -> list[str]:
    """Of a dataclass or a TypedDict, in order, those of its bases included."""
    if dataclasses.is_dataclass(owner):
        return [field.name for field in dataclasses.fields(owner)]
    return list(owner.__annotations__)


def prose(text: str) -> str:
    """Docstring text as Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text).replace(
        "``", "`"
    )


def without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        return parts[0], len(parts) < len(typing.get_args(annotation))
    return annotation, False


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table of Markdown, with an empty line after it."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows), ""]


def wrapped(text: str, indent: str = "") -> list[str]:
    """Prose of lines that are not too long; ``indent`` is before all but the first."""
    options: dict[str, Any] = {
        "break_long_words": False,
        "break_on_hyphens": False,
        "subsequent_indent": indent,
    }
    return textwrap.wrap(text, WIDTH, **options)
