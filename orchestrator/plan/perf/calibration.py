"""What a cluster's own runs say about the planner's constants there.

Five figures, each with a meaning, and each but the first of either kind only where the runs differ enough to
tell:

- a factor on the time that ranks compute: what the model of the kernels takes for granted and these nodes do
  not reach, or exceed;
- seconds of every step that do not shrink with the model: Python, hooks, the start of kernels, the
  optimizer's calls;
- a factor on communication that nothing hides: what fabric and library make of the line rate;
- bytes of the framework itself: process, device context, communicators;
- a factor on what layers and loss keep for the backward pass, which depends on the kernels, and on what is
  lost between the allocator's blocks. Weights, gradients and optimizer states follow from ZeRO and are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.plan.perf.least_squares import Bounds, Fit, Sample, fit
from orchestrator.plan.perf.memory import Memory
from orchestrator.plan.perf.step import StepTime

# A bubble is idle time while other stages compute: it grows with what they take.
COMPUTE = ("matmul_s", "attention_s", "memory_bound_s", "recompute_s", "host_s", "optimizer_s", "bubble_s")
COMMUNICATION = ("tp_s", "sp_s", "ep_s", "pp_s", "dp_s")
KEPT = ("activations", "transient", "logits", "fragmentation")
FACTORS, COMMUNICATION_FACTORS, KEPT_FACTORS = (0.01, 100.0), (0.1, 20.0), (0.25, 4.0)
# Two figures are told apart where what one of them scales is so many times as much in one run as in another,
# and so large a share of one run's whole.
LEAST_RATIO, LEAST_SHARE = 2.0, 0.05
LEAST_RUNS_FOR_COMMUNICATION = 3


@dataclass(frozen=True, order=True)
class Group:
    """What a calibration holds for, and nothing else."""

    cluster: str
    gpu: str
    precision: str
    several_nodes: bool


@dataclass(frozen=True)
class Calibration:
    """Of one group. ``overhead_s`` is for each step, ``memory_offset_bytes`` may be negative; ``runs`` is how
    many it was fitted to, ``fitted`` names them as a group, with the date of the last."""

    compute_factor: float = 1.0
    overhead_s: float = 0.0
    communication_factor: float = 1.0
    memory_factor: float = 1.0
    memory_offset_bytes: int = 0
    runs: int = 0
    fitted: str = ""

    @property
    def compute_efficiency(self) -> float:
        """Share of the planned speed that is reached; where that is a nominal peak, as on CPUs, the share of
        it."""
        return 1.0 / self.compute_factor

    @property
    def basis(self) -> str:
        """``calibrated on 3 runs of local with CPU core in fp32, the last on 2026-11-22``."""
        return f"calibrated on {self.fitted}"

    def apply(self, step: StepTime) -> StepTime:
        """The time of a step with this calibration."""
        scaled = {name: self.compute_factor * getattr(step, name) for name in COMPUTE}
        scaled |= {name: self.communication_factor * getattr(step, name) for name in COMMUNICATION}
        scaled["host_s"] += self.overhead_s
        return dataclasses.replace(step, **scaled)

    def apply_memory(self, memory: Memory) -> Memory:
        """The memory of a rank with this calibration; no part becomes negative."""
        scaled = {name: round(self.memory_factor * getattr(memory, name)) for name in KEPT}
        scaled["framework"] = max(0, memory.framework + self.memory_offset_bytes)
        return dataclasses.replace(memory, **scaled)


def step_sample(step: StepTime, actual_s: float) -> Sample:
    """Of a run whose nominal step time is ``step``: what the factors scale, and the one overhead of a
    step."""
    compute_s = math.fsum(getattr(step, name) for name in COMPUTE)
    communication_s = math.fsum(getattr(step, name) for name in COMMUNICATION)
    rest_s = max(0.0, step.total_s - compute_s - communication_s)
    return Sample((compute_s, 1.0, communication_s), rest_s, actual_s)


def memory_sample(memory: Memory, actual_bytes: float) -> Sample:
    """Of a run whose nominal memory is ``memory``: what the factor scales, and the one offset."""
    kept = sum(getattr(memory, name) for name in KEPT)
    return Sample((float(kept), 1.0), float(memory.total_bytes - kept), actual_bytes)


def fit_steps(samples: Sequence[Sample]) -> Fit:
    """Compute factor, seconds of overhead, communication factor."""
    compute, communication = [s.parts[0] for s in samples], [s.parts[2] for s in samples]
    overhead: Bounds = (0.0, math.inf) if _differ(compute) else (0.0, 0.0)
    shares = [part / whole if whole else 0.0 for part, whole in zip(communication, compute, strict=True)]
    tells = len(samples) >= LEAST_RUNS_FOR_COMMUNICATION and _differ(shares) and max(shares) >= LEAST_SHARE
    return fit(samples, (FACTORS, overhead, COMMUNICATION_FACTORS if tells else (1.0, 1.0)))


def fit_memory(samples: Sequence[Sample], least_framework_bytes: float) -> Fit:
    """Factor and bytes of offset. The framework's own bytes, in the samples' rest, stay above 0 in each of
    the runs: ``least_framework_bytes`` is the least of them."""
    kept, typical = [sample.parts[0] for sample in samples], median(sample.actual for sample in samples)
    tells = _differ(kept) and max(kept) - min(kept) >= LEAST_SHARE * typical
    return fit(samples, (KEPT_FACTORS if tells else (1.0, 1.0), (-least_framework_bytes, math.inf)))


def _differ(values: Sequence[float]) -> bool:
    return max(values) > 0 and max(values) >= LEAST_RATIO * min(values)
