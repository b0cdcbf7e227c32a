"""Which keys of a run's configuration become parameters in MLflow: those that can differ between runs. Pure.

All 260 of them made a table in which nothing was found. Left out is what follows from a name (the peaks of a
GPU, the variables of a fabric, the shape of a model), what is at its default, and where things lie. Whatever
was typed is there. config.yaml, which goes with the run, has everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from orchestrator.config import load

# A file of conf/ says all of these by its name, or there is one for all runs.
_FACTS = ("cluster", "gpu", "fabric", "model", "planner")
_NAMED = {
    "cluster.name", "gpu.name", "fabric.name", "model.name", "cluster.nodes", "cluster.gpus_per_node",
    "cluster.price.kind", "cluster.price.usd_per_gpu_hour",
}  # fmt: skip
# Names and places of this one run, which are tags.
_PLACES = {
    "run_name", "run_dir", "run_root", "tracking", "calibration", "owner", "project", "cost_center", "kueue",
}  # fmt: skip
_PLACEHOLDER = re.compile(r"\{\w+\}")
_NO_DEFAULT = object()
_TYPED = re.compile(r"[+~]*([^=]+)=")


def telling(flat: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Of the keys of a configuration those that tell this run from another; ``words`` are what was typed."""
    typed = [match[1] for word in words if (match := _TYPED.match(word)) is not None]

    def tells(key: str, value: Any) -> bool:
        group = key.partition(".")[0]
        if group in _PLACES:
            return False
        if key in _NAMED or any(key == one or key.startswith(f"{one}.") for one in typed if "." in one):
            return True
        if group in _FACTS or key.startswith("job.builds.") or value is None or value == []:
            return False
        if isinstance(value, str) and _PLACEHOLDER.fullmatch(value):
            return False
        return bool(_defaults().get(key, _NO_DEFAULT) != value)

    return {key: value for key, value in flat.items() if tells(key, value)}


def varied(flat: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What this run of a sweep has of the keys that are varied; of a group that is chosen its name."""
    named = {key: flat.get(key, flat.get(f"{key}.name")) for key in keys}
    return {key: value for key, value in named.items() if value is not None}


@cache
def _defaults() -> dict[str, Any]:
    return load.flatten(load.defaults())
