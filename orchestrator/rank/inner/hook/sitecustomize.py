"""Imported by every Python that starts inside of a rank's program, before anything of the user's.

It may be a Python of another environment and of another version, so that nothing of ours is imported before
there is something to see, and what goes wrong with it is not the script's concern.
"""

import os
import sys
from importlib.machinery import PathFinder

_VARIABLE = "ORCHESTRATOR_INNER"
_AT = ("torch", "deepspeed", "mlflow")
_OLDEST = (3, 11)


class _AtImport:
    """Finds nothing itself: it lets the probes be attached, and the others find the module."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name not in _AT:
            return None
        sys.meta_path.remove(self)
        from contextlib import suppress

        with suppress(Exception):  # the training goes on unseen
            _begin()
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        return next((spec for spec in found if spec is not None), None)


def _begin() -> None:
    """Import our side, beside whatever the script itself calls by the name of our package."""
    root = os.path.dirname(os.path.abspath(__file__))
    for _ in range(4):  # the folder, and three packages around it
        root = os.path.dirname(root)
    theirs = _take_ours()
    sys.path.insert(0, root)
    try:
        from orchestrator.rank.inner import process

        process.begin(os.environ[_VARIABLE])
    finally:
        sys.path.remove(root)
        _take_ours()
        sys.modules.update(theirs)


def _take_ours() -> dict:  # type: ignore[type-arg]
    """Have no module be known under the name of our package; returns those that were."""
    names = [name for name in sys.modules if name.partition(".")[0] == "orchestrator"]
    return {name: sys.modules.pop(name) for name in names}


def _others() -> None:
    """Run the `sitecustomize` that this one stands before."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


if _VARIABLE in os.environ and sys.version_info >= _OLDEST:
    sys.meta_path.insert(0, _AtImport())
_others()
