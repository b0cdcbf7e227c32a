"""Loading a checkpoint that may be somebody else's: its pickle may build tensors and plain values, and run
nothing.

Torch's weights-only loading refuses every type that it does not know to be harmless. Known here as well are
DeepSpeed's own, of which its checkpoints of every ZeRO stage hold some, and those of numpy and of the
standard library that scripts keep beside their weights: random states, and their arguments. Torch is asked
itself and not by way of ``TORCH_FORCE_WEIGHTS_ONLY_LOAD``: a variable is the whole process's, and a thread of
the script may load meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import pickle
import sys
import types
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import CheckpointError

# By name: what DeepSpeed does not have any more, or not yet, is left out.
_OF_OTHERS = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)
# As numpy before 2 wrote them.
_OLDER_NAMES = {"numpy._core.multiarray": "numpy.core.multiarray"}
_STANDARD = (argparse.Namespace, types.SimpleNamespace, pathlib.PosixPath, pathlib.PurePosixPath)


class UnknownTypesError(CheckpointError):
    """A file needs types that are not known to be harmless. ``allowable`` are their names where allowing them
    helps: not for functions, and not where the file is not of a kind that can be looked into."""

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allowable = sorted(names) if all(map(_may_be_type, names)) else []


def plain_load(path: str, map_location: Any, allow: Sequence[str] = ()) -> Any:
    """What ``torch.load`` gives; ``allow`` are more types, by their names.

    Raises :class:`UnknownTypesError` before anything of the file is built, ValueError for a name in ``allow``
    that is none, and what ``torch.load`` raises for a file that is damaged.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    with safe_globals([*_known(), *(_named(name) for name in allow)]):
        try:
            unknown = get_unsafe_globals_in_checkpoint(path)
        except ValueError:  # a format of before 2020, of which torch looks at each type when it meets it
            unknown = []
        if unknown:
            raise UnknownTypesError(f"it holds {', '.join(sorted(unknown))}", unknown)
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            # Torch advises to load it all the same, over many lines; the first sentence says what is wrong.
            lines = str(error).strip().splitlines()
            raise UnknownTypesError(
                f"torch does not load it by weights alone: {lines[0] if lines else error}"
            ) from error


def _known() -> list[Any]:
    import numpy

    found: list[Any] = [*_STANDARD]
    found += [kind for name in numpy.dtypes.__all__ if isinstance(kind := getattr(numpy.dtypes, name), type)]
    for name in _OF_OTHERS:
        module, _, attribute = name.rpartition(".")
        try:
            one = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
        found.append(one)
        if module in _OLDER_NAMES:
            found.append((one, f"{_OLDER_NAMES[module]}.{attribute}"))
    return found


def _named(name: str) -> Any:
    """A type by its module and name; a function is none, and would be called with what the file says."""
    module, _, attribute = name.rpartition(".")
    try:
        one = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise ValueError(
            f"snapshot.allow_types: there is no {name}; write a type's module and name, as in"
            " argparse.Namespace"
        ) from None
    if not isinstance(one, type):
        raise ValueError(
            f"snapshot.allow_types: {name} is no type, and calling it can do anything; leave it out"
        )
    return one, name


def _may_be_type(name: str) -> bool:
    """As far as can be said without importing anything for it."""
    module, _, attribute = name.rpartition(".")
    return isinstance(getattr(sys.modules.get(module), attribute, object), type)
