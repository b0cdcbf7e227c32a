"""Which libraries a script imports, read from its source: nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from orchestrator import papers

# Those that fill in what is "auto" in a DeepSpeed configuration, and what is made of them.
FILLERS = frozenset(
    {"transformers", "accelerate", "trl", "axolotl", "llamafactory", "sentence_transformers", "setfit"}
)
_MOST_FILES = 200
_MOST_BYTES = 1 << 20


def fills_auto(script: Path) -> bool:
    """Whether the script, or a module beside it that it imports, imports a library which fills in "auto".

    So too where its source cannot be read as Python: nobody knows then.
    """
    waiting, seen = [script], {script}
    while waiting:
        path = waiting.pop()
        try:
            imported = set(_imports(ast.parse(papers.read_text(path, _MOST_BYTES))))
        except (OSError, ValueError, SyntaxError, RecursionError):
            if path == script:
                return True
            continue
        if imported & FILLERS:
            return True
        for name in sorted(imported):
            beside = [script.parent / f"{name}.py", *sorted((script.parent / name).glob("*.py"))]
            for module in beside:
                if module not in seen and module.is_file() and len(seen) < _MOST_FILES:
                    seen.add(module)
                    waiting.append(module)
    return False


def _imports(tree: ast.AST) -> Iterator[str]:
    """The first word of each imported name; of a relative import what follows the dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
