"""The sources of a script and of the modules beside it that it imports, found in one walk and never run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator import papers
from orchestrator.plan.source import Source

# Of all files together, so that a plan of a script in a large repository takes no second longer.
_MOST_FILES, _MOST_BYTES = 200, 2 << 20
# Those that fill in what is "auto" in a DeepSpeed configuration, and what is made of them.
FILLERS = frozenset(
    {"transformers", "accelerate", "trl", "axolotl", "llamafactory", "sentence_transformers", "setfit"}
)


def script_sources(script: Path, root: Path | None = None) -> list[Source]:
    """The script's first, then those that it imports, the nearest first; none where the script cannot be read
    as text.

    ``root`` is where Python looks for absolute names, the script's own folder if not told. A module that
    cannot be read is left out, and what is further away than as much as is read.
    """
    root = script.parent if root is None else root
    found: list[Source] = []
    seen, waiting, bytes_left = {script}, deque([script]), _MOST_BYTES
    while waiting and len(found) < _MOST_FILES:
        path = waiting.popleft()
        try:
            text = papers.read_text(path, bytes_left)
        except (OSError, ValueError):
            continue
        bytes_left -= len(text)
        source = Source(text, path)
        found.append(source)
        for level, name in sorted(source.imports):
            for place in _places([root, *path.parents][level : level + 1], name):
                if place not in seen and place.is_file():
                    seen.add(place)
                    waiting.append(place)
    return found


def fills_auto(sources: Sequence[Source]) -> bool:
    """Whether a script, by its sources, imports a library which fills in "auto".

    So too where the script itself cannot be read as Python: nobody knows then.
    """
    if not sources or sources[0].tree is None:
        return True
    return any(source.libraries() & FILLERS for source in sources)


def _places(folders: Sequence[Path], name: str) -> Iterator[Path]:
    """Where a module of this name would be."""
    for folder in folders:
        inner = folder.joinpath(*name.split("."))
        yield from (inner.with_suffix(".py"), inner / "__init__.py")
