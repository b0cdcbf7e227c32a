"""The planner's lists of published runs, from a file that Hydra does not read.

They hold several hundred values, none of which anything refers to. As a part of the composed configuration
they took as long as the rest of it; libyaml and a check of each field take a fiftieth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from orchestrator import papers
from orchestrator.config.evidence import BestMfuConfig, EvidenceConfig, PlannerEvidence
from orchestrator.errors import ConfigError

_Entry = TypeVar("_Entry")
MISSING = "???"  # a field's default where it has none


def fill(planner: PlannerEvidence, folder: Path) -> None:
    """Give the planner those lists of ``planner.published`` that it has no values for; a path that is not
    absolute is one in ``folder``. Without that key they are empty.

    Raises :class:`ConfigError` for a file that cannot be read, or says something else.
    """
    lacks = planner.evidence is None or planner.best_published is None
    body = _read(folder / planner.published) if lacks and planner.published else {}
    try:
        if planner.evidence is None:
            planner.evidence = _entries(EvidenceConfig, body, "evidence")
        if planner.best_published is None:
            planner.best_published = _entries(BestMfuConfig, body, "best_published")
    except papers.PaperError as error:
        raise _refused(folder / planner.published, str(error)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        body = papers.yaml_of(papers.read_text(path))
    except (OSError, papers.PaperError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refused(path, why) from None
    if not isinstance(body, dict):
        raise _refused(path, "it has no keys")
    return body


def _entries(kind: type[_Entry], body: dict[str, Any], key: str) -> list[_Entry]:
    entries = body.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise papers.PaperError(f"{key} is no list of runs")
    try:
        made = [papers.made(kind, entry) for entry in entries]
    except papers.PaperError as error:
        raise papers.PaperError(f"of {key}, {error}") from None
    for name, value in ((name, value) for one in made for name, value in vars(one).items()):
        if value == MISSING:
            raise papers.PaperError(f"a run of {key} has no {name}")
    return made


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"planner.published={path}: {why}; name a file like conf/planner/published.yml, or leave the key out"
    )
