"""What the chosen layout won against, and why: the best of each other kind, not ten of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.plan.layout.framework_rules import sharding_in_words
from orchestrator.plan.search.space import SAME_TIME, Candidate, best_of
from orchestrator.text import figure

MOST = 10
MOST_FASTER = 3

# What makes layouts different in kind; micro-batches do not.
_KINDS: tuple[Callable[[Candidate], object], ...] = (
    lambda c: c.sharding.zero.stage,
    lambda c: c.sharding.zero.hpz,
    lambda c: (c.layout.recompute, c.layout.selective),
    lambda c: c.layout.tp,
    lambda c: c.layout.pp,
    lambda c: c.layout.sp,
    lambda c: c.layout.ep,
    lambda c: c.layout.cp,
    lambda c: c.layout.vp > 1,
    lambda c: c.layout.ep_overlap,
    lambda c: (c.sharding.zero.offload_optimizer, c.sharding.zero.offload_parameters),
)
_PARTS = {
    "matmul_s": "matrix products",
    "attention_s": "attention",
    "memory_bound_s": "memory-bound kernels",
    "recompute_s": "recomputation",
    "host_s": "waiting for the host",
    "optimizer_s": "the optimizer",
    "offload_s": "offload",
    "tp_s": "tensor parallel communication",
    "sp_s": "sequence parallel communication",
    "ep_s": "expert parallel communication",
    "pp_s": "sends between stages",
    "dp_s": "data parallel communication",
    "bubble_s": "the pipeline's bubble",
    "data_s": "data",
}


@dataclass(frozen=True)
class RunnerUp:
    """A layout that lost, and ``why`` in words: slower, the same and less simple, too tight, does not fit."""

    candidate: Candidate
    why: str


def runners_up(
    best: Candidate, fitting: Sequence[Candidate], misses: Sequence[Candidate]
) -> tuple[RunnerUp, ...]:
    """Those that fit by time, then those that do not by what they lack.

    For each kind the best layout that differs in it, or where none fits the one that lacks least; the fastest
    that would leave too little free; and those that would be faster and lack least.
    """
    chosen: dict[tuple[object, ...], Candidate] = {}
    for candidate in _instructive(best, fitting, misses):
        chosen.setdefault(_kind(candidate), candidate)
    chosen.pop(_kind(best), None)
    ordered = sorted(chosen.values(), key=lambda c: (not c.fits, c.lacks_bytes, c.step_time_s))
    return tuple(RunnerUp(candidate, _why(candidate, best)) for candidate in ordered[:MOST])


def in_words(candidate: Candidate) -> str:
    """``tp 8 × dp 16, ZeRO-3, optimizer offloaded, micro-batch 2, recompute``."""
    layout, zero = candidate.layout, candidate.sharding.zero
    words = [layout.degrees, sharding_in_words(layout) + (f" with hpZ {zero.hpz}" if zero.hpz > 1 else "")]
    if zero.offload_optimizer or zero.offload_parameters:
        what = "weights and optimizer" if zero.offload_parameters else "optimizer"
        words.append(f"{what if zero.offload_optimizer else 'weights'} offloaded")
    words.append(f"micro-batch {layout.micro_batch}")
    words += ["recompute"] * layout.recompute + ["selective recompute"] * layout.selective
    words += ["experts' messages hidden"] * layout.ep_overlap
    return ", ".join(words)


def _instructive(
    best: Candidate, fitting: Sequence[Candidate], misses: Sequence[Candidate]
) -> Iterator[Candidate]:
    for kind in _KINDS:
        others = [candidate for candidate in fitting if kind(candidate) != kind(best)]
        if others:
            yield best_of(others)
        elif lacking := [candidate for candidate in misses if kind(candidate) != kind(best)]:
            yield min(lacking, key=lambda c: (c.lacks_bytes, c.simplicity))
    if tight := [c for c in fitting if not c.roomy and c.step_time_s < best.step_time_s * (1 - SAME_TIME)]:
        yield best_of(tight)
    faster = [
        miss for miss in misses if miss.step_time_s < best.step_time_s * (1 - SAME_TIME) and _near(miss)
    ]
    by_shape: dict[tuple[object, ...], Candidate] = {}
    for miss in sorted(faster, key=lambda c: (round(c.lacks_bytes / 1e9), c.simplicity)):
        by_shape.setdefault((miss.layout.tp, miss.layout.pp, miss.layout.sp, miss.layout.recompute), miss)
    yield from list(by_shape.values())[:MOST_FASTER]


def _near(miss: Candidate) -> bool:
    """Twice the accelerator's memory would do."""
    return miss.lacks_bytes <= miss.memory.total_bytes + miss.free_bytes


def _kind(candidate: Candidate) -> tuple[object, ...]:
    return tuple(kind(candidate) for kind in _KINDS)


def _why(candidate: Candidate, best: Candidate) -> str:
    change = candidate.step_time_s / best.step_time_s - 1
    if not candidate.fits:
        lacks = [f"does not fit by {-candidate.free_bytes / 1e9:.1f} GB"] if candidate.free_bytes < 0 else []
        if candidate.host_free_bytes < 0:
            lacks.append(f"a node lacks {-candidate.host_free_bytes / 1e9:.1f} GB of memory")
        return " and ".join(lacks) + (f"; would be {-change:.0%} faster" if change < -SAME_TIME else "")
    if change < -SAME_TIME:
        return f"{-change:.1%} faster, but {' and '.join(_strains(candidate, best))}"
    if change <= SAME_TIME and (reason := _less_simple(candidate, best)) is not None:
        return f"same time, {reason}"
    slower = f"{change:.1%} slower" if change < 1 else f"{change + 1:,.1f} times as long"
    more = {name: getattr(candidate.step, name) - getattr(best.step, name) for name in _PARTS}
    name = max(more, key=lambda part: more[part])
    roomier_gb = (candidate.free_bytes - best.free_bytes) / 1e9
    room = f", {roomier_gb:.1f} GB more free" if change <= candidate.ease and roomier_gb >= 0.1 else ""
    return f"{slower}: {_PARTS[name]} +{figure(more[name])} s{room}"


def _strains(candidate: Candidate, best: Candidate) -> list[str]:
    """What speaks against a layout that would be faster."""
    zero, chosen = candidate.sharding.zero, best.sharding.zero
    offloads = {
        "optimizer": zero.offload_optimizer > chosen.offload_optimizer,
        "weights": zero.offload_parameters > chosen.offload_parameters,
    }
    found = [f"offloads {name}" for name, more in offloads.items() if more]
    if candidate.tight or not candidate.roomy:
        found.append(f"leaves only {candidate.free_bytes / 1e9:.1f} GB free")
    return found


def _less_simple(candidate: Candidate, best: Candidate) -> str | None:
    """Why of two equally fast ones the other was taken; None where it is the faster one after all."""
    zero, chosen = candidate.sharding.zero, best.sharding.zero
    reasons = (
        (zero.offload_parameters > chosen.offload_parameters, "more offload"),
        (zero.offload_optimizer > chosen.offload_optimizer, "more offload"),
        (candidate.layout.recompute > best.layout.recompute, "recomputes for it"),
        (candidate.layout.selective > best.layout.selective, "recomputes for it"),
        (candidate.simplicity[0] > best.simplicity[0], "less simple"),
        (zero.stage > chosen.stage, "a higher ZeRO stage"),
        (
            candidate.roomy < best.roomy or candidate.tight > best.tight,
            f"leaves only {candidate.free_bytes / 1e9:.1f} GB free",
        ),
        (candidate.free_bytes < best.free_bytes, "less memory free"),
    )
    return next((reason for holds, reason in reasons if holds), None)
