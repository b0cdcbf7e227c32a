"""What is to be exported: the configuration, its plan, and the words by which the run is started there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.config.kueue_schema import PriorityBoost
from orchestrator.config.schema import Config, Device
from orchestrator.plan.plan import Plan

# What names where and how a run is started is the exported file's own business, and is not said again in it.
_OF_EXPORT = ("format", "container", "kuberay", "slurm", "ray_up", "compose")
_OF_THE_PLACE = ("ray_address", "run_name", "run_dir", "job.resume")
_MOST_NAME = 40  # characters; KubeRay takes 47 of a RayJob


@dataclass(frozen=True)
class Order:
    """``words`` are those that were typed; ``array`` has, for each task of a sweep, what it adds to them.
    ``python`` is the interpreter that exports."""

    config: Config
    plan: Plan
    words: tuple[str, ...]
    ray_version: str
    version: str
    python: str
    array: tuple[tuple[str, ...], ...] = ()

    @property
    def on_gpus(self) -> bool:
        return self.config.gpu.device is Device.cuda

    @property
    def tells_kueue(self) -> bool:
        """Whether the run tells Kueue how dear it is to stop."""
        return self.config.kueue.priority_boost is not PriorityBoost.off

    @property
    def image(self) -> str:
        """The image of head and workers."""
        kind = "cuda" if self.on_gpus else "cpu"
        return self.config.container.image or f"orchestrator:{self.version}-{kind}"

    @property
    def usd_per_hour(self) -> float:
        """Of all accelerators of the run."""
        return self.plan.billed_by.usd_per_gpu_hour * self.plan.layout.ranks

    def name(self, given: str | None) -> str:
        """What the run's objects are called: ``given``, or a name that every system takes."""
        if given is not None:
            return given
        found = self.config.run_name or f"{self.config.job.name}-{self.config.cluster.name}"
        return re.sub(r"[^a-z0-9]+", "-", found.lower()).strip("-")[:_MOST_NAME].strip("-") or "run"

    def run_words(self, *of_the_place: str) -> list[str]:
        """What is typed after ``python -m orchestrator`` there: the user's words, then those of the place,
        which win over them."""
        keys = {word.partition("=")[0] for word in of_the_place}
        return [*(word for word in self.words if not _is_left_out(word, keys)), *of_the_place]

    def has_word(self, *roots: str) -> bool:
        """Whether a key below one of these was typed."""
        typed = [key_of(word) for word in self.words]
        return any(key == root or key.startswith(f"{root}.") for key in typed for root in roots)


def _is_left_out(word: str, keys: set[str]) -> bool:
    key = key_of(word)
    root = key.partition(".")[0]
    return root in _OF_EXPORT or key in _OF_THE_PLACE or key in keys or word in ("-m", "--multirun")


def key_of(word: str) -> str:
    """The key or group of a word, without what Hydra writes before it."""
    return word.partition("=")[0].lstrip("+~")
