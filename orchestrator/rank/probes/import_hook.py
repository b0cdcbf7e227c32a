"""Do something when a module has been imported, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType

_preloaded: list[str] = []


def came_before_probes(names: Iterable[str]) -> None:
    """These modules were imported in the zygote, so that they may hold functions which a probe replaces."""
    _preloaded[:] = names


def replace_where_taken(name: str, original: object, put: object) -> None:
    """Modules that have taken a function by name before it was replaced get what takes its place, as they
    would have if they had been imported after it."""
    for taker in _preloaded:
        module = sys.modules.get(taker)
        if getattr(module, "__dict__", {}).get(name) is original:  # without waking what loads itself lazily
            setattr(module, name, put)


def when_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    """Call `action(module)` at once if the module is there, else right after its first import.

    `from module import name` in the importing script already sees what `action` has put in place.
    """
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    else:
        sys.meta_path.insert(0, _Watcher(name, action))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets the others find the module, and steps in behind the loader."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                self._follow(spec)
                return spec  # type: ignore[no-any-return]
        sys.meta_path.insert(0, self)  # not installed; a later sys.path may have it
        return None

    def _follow(self, spec: importlib.machinery.ModuleSpec) -> None:
        loader = spec.loader
        if loader is None:
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._action(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
