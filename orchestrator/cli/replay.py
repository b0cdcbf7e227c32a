"""``simulate --replay``: what a queue's daemon has decided, decided again."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from rich.console import Console

from orchestrator.dispatch.replay import Differing, Replay, replay_of
from orchestrator.dispatch.store import NAME, Store
from orchestrator.errors import ConfigError
from orchestrator.text import clean, plural

DIFFERS = 1  # the exit code where something would be decided otherwise
_MOST_SHOWN = 10


def replay(place: str, as_json: bool, console: Console) -> int:
    """``place`` is the folder of a queue, or its database. Raises :class:`ConfigError` for one that is not
    there."""
    given = Path(place)
    folder = given.parent if given.name == NAME else given
    if not (folder / NAME).is_file():
        raise ConfigError(
            f"--replay={place}: there is no {NAME}; name the folder of a queue, as runs/fleet of a run root"
        )
    with Store(folder) as store:
        found = replay_of(store.facts())
    if as_json:
        console.file.write(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    else:
        for line in _lines(found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DIFFERS if found.differing else 0


def _lines(found: Replay) -> list[str]:
    if not found.decisions or found.first_unix_s is None or found.last_unix_s is None:
        return ["nothing was decided there that has on record what it was decided upon"]
    span = f"from {_told(found.first_unix_s)} to {_told(found.last_unix_s)}"
    head = f"{plural(found.decisions, 'decision')} {span}"
    if not found.differing:
        return [f"{head}: decided again, all come out the same"]
    lines = [f"{head}: decided again, {len(found.differing)} come out otherwise"]
    for one in found.differing[:_MOST_SHOWN]:
        lines += _differing(one)
    if len(found.differing) > _MOST_SHOWN:
        lines.append(f"and {len(found.differing) - _MOST_SHOWN} more, which --json has")
    return lines


def _differing(one: Differing) -> list[str]:
    return [
        _told(one.at_unix_s),
        f"  then: {'; '.join(map(clean, one.then)) or 'nothing'}",
        f"  now:  {'; '.join(map(clean, one.now)) or 'nothing'}",
    ]


def _told(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
