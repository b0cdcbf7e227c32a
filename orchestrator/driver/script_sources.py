"""The source of a script and of the modules beside it that it imports, to be read and not to be run."""

from __future__ import annotations

from pathlib import Path

from orchestrator import papers
from orchestrator.plan.resuming import imported

_MOST_FILES, _MOST_BYTES = 40, 1 << 20


def script_sources(script: Path) -> list[str]:
    """The script's first; what cannot be read as text is left out, and what is further away than others."""
    found: dict[Path, str] = {}
    waiting = [script]
    while waiting and len(found) < _MOST_FILES:
        path = waiting.pop(0)
        try:
            found[path] = papers.read_text(path, _MOST_BYTES)
        except (OSError, ValueError):
            continue
        for name in sorted(imported(found[path])):
            for one in _places(script.parent, path.parent, name):
                if one not in found and one not in waiting and one.is_file():
                    waiting.append(one)
    return list(found.values())


def _places(folder: Path, beside: Path, name: str) -> list[Path]:
    """Where a module of this name would be, seen from the script or from the module that imports it."""
    inner = Path(*name.split("."))
    return [
        place
        for base in dict.fromkeys((folder, beside))
        for place in (base / inner.with_suffix(".py"), base / inner / "__init__.py")
    ]
