"""The source of a program as syntax, for all that is read from it. Pure: nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """The text of a script, or of a module that it imports, parsed once for all questions asked of it."""

    text: str
    path: Path | None = None  # where it lies; None for a text that is in no file

    @cached_property
    def tree(self) -> ast.Module | None:
        """Its syntax; None where it is no Python, which the ranks will say."""
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All of its syntax, walked once: that takes longer than the questions. Nothing of what is no
        Python."""
        return tuple(ast.walk(self.tree)) if self.tree is not None else ()

    @cached_property
    def imports(self) -> frozenset[tuple[int, str]]:
        """What it imports: the dots before a name, none for an absolute one, and the name.

        What is imported from a package may be a module too, and a module's packages are imported before it.
        """
        found: set[tuple[int, str]] = set()
        for node in self.nodes:
            match node:
                case ast.Import():
                    found |= {(0, name) for alias in node.names for name in _with_packages(alias.name)}
                case ast.ImportFrom(module=module, level=level):
                    names = {f"{module}.{alias.name}" if module else alias.name for alias in node.names}
                    found |= {(level, name) for each in names for name in _with_packages(each)}
        return frozenset(found)

    def libraries(self) -> frozenset[str]:
        """The first words of what it imports by absolute names: those of libraries, and of what lies beside
        it."""
        return frozenset(name for level, name in self.imports if level == 0 and "." not in name)


def _with_packages(name: str) -> Iterator[str]:
    words = name.split(".")
    return (".".join(words[:count]) for count in range(1, len(words) + 1))
