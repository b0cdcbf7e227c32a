"""The index of a checkpoint of ``torch.distributed.checkpoint``: which of its files have to be how long.

``.metadata`` is a pickle, and a pickle runs what it says. Here it is read for its figures alone: whatever
class or function it names, an object without any behaviour takes its place.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from orchestrator import papers

_MOST_BYTES = 512 << 20
_PLACE = "_StorageInfo"  # of torch's file system writer: a file, where in it a part begins, how long it is


class _Inert:
    """Stands for what a pickle names, and does nothing."""

    named = ""

    def __new__(cls, *_args: Any, **_named: Any) -> _Inert:
        made = object.__new__(cls)
        made.__dict__["state"] = {}
        return made

    def __init__(self, *_args: Any, **_named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state if isinstance(state, dict) else {}

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _value: Any) -> None: ...

    def extend(self, _values: Any) -> None: ...


class _Figures(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        return type("_Of", (_Inert,), {"named": name})

    def persistent_load(self, pid: Any, /) -> Any:
        return None


def lacking(index: Path) -> str | None:
    """What is not there of all that ``.metadata`` names; None where nothing is, or where it has no places."""
    try:
        with papers.open_plain(index) as file:
            if index.stat().st_size > _MOST_BYTES:
                return None
            whole = _Figures(file).load()
    except Exception as error:  # noqa: BLE001 - a pickle that is cut off, or no pickle at all, may raise anything
        return f"{index.name} cannot be read: {error or type(error).__name__}"
    places = whole.__dict__["state"].get("storage_data") if isinstance(whole, _Inert) else None
    needed: dict[str, int] = {}
    for place in places.values() if isinstance(places, dict) else ():
        if not isinstance(place, _Inert) or place.named != _PLACE:
            continue
        name, offset, length = (
            place.__dict__["state"].get(key) for key in ("relative_path", "offset", "length")
        )
        if isinstance(name, str) and isinstance(offset, int) and isinstance(length, int):
            needed[name] = max(needed.get(name, 0), offset + length)
    for name, size in sorted(needed.items()):
        try:
            there = (index.parent / name).stat().st_size
        except OSError:
            return f"{index.name} names {papers.short(name)}, which is not there"
        if there < size:
            return f"{name} has {there:,} bytes of {size:,}"
    return None
