"""The layout whose step is the shortest of those that DeepSpeed runs and that fit.

On given GPUs the fastest is the cheapest. Every combination is looked at, in an order in which memory only
grows: at the first micro-batch that does not fit, larger ones are left out. Times and memory that layouts
share are computed once, by :class:`~orchestrator.plan.perf.step.StepModel`.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.search.runners_up import RunnerUp, in_words, runners_up
from orchestrator.plan.search.space import (
    Candidate,
    Sharding,
    Space,
    Steps,
    Subject,
    best_of,
    candidate_of,
    data_parallel,
    does_not_run,
    layout_of,
    shapes,
)

MOST_NODES_FACTOR = 64


@dataclass(frozen=True)
class Search:
    """``considered`` layouts are those that DeepSpeed runs and the batch allows; ``fitting`` of them fit."""

    best: Candidate
    runners_up: tuple[RunnerUp, ...]
    considered: int
    fitting: int
    # the best that a script with tensor and pipeline parallelism could do; None where this one can, or it
    # would not be much faster
    divided: Candidate | None = None
    divided_by: tuple[str, ...] = ()  # overrides with which ``layout=auto`` finds that


@dataclass(frozen=True)
class Found:
    """All that fits, and of each kind that does not fit at all the layout that lacks least."""

    fitting: list[Candidate]
    misses: list[Candidate]
    considered: int
    refused: str | None  # why DeepSpeed does not run the first that it does not


def search(space: Space, subject: Subject) -> Search:
    """The best layout and what it won against.

    Raises :class:`ConfigError` where nothing fits, with what comes closest and what would do; where the batch
    cannot be divided; and where DeepSpeed runs nothing of what was given.
    """
    found = explore(space, subject)
    if not found.considered:
        raise ConfigError(_nothing_to_consider(space, found))
    if not found.fitting:
        raise ConfigError(_nothing_fits(space, subject, found))
    best = best_of(found.fitting)
    return Search(best, runners_up(best, found.fitting, found.misses), found.considered, len(found.fitting))


def explore(space: Space, subject: Subject) -> Found:
    """Look at the whole space."""
    steps = Steps(subject, space.precision)
    fitting: list[Candidate] = []
    misses: list[Candidate] = []
    considered, refused = 0, None
    for degrees, sharding in itertools.product(shapes(space), space.shardings):
        if (reason := does_not_run(space, degrees, sharding.zero)) is not None:
            refused = refused or reason
            continue
        sizes = space.micro_batches(data_parallel(space, degrees))
        choices = [
            (*again, overlap) for again in space.again for overlap in space.overlaps(degrees.ep, again[0])
        ]
        considered += len(sizes) * len(choices)
        for choice in choices:
            for place, micro_batch in enumerate(sizes):
                layout = layout_of(space, degrees, sharding.zero, micro_batch, *choice)
                candidate = candidate_of(subject, steps, layout, sharding)
                if not candidate.fits:
                    if place == 0:
                        misses.append(candidate)
                    break
                fitting.append(candidate)
    return Found(fitting, misses, considered, refused)


def _nothing_to_consider(space: Space, found: Found) -> str:
    if found.refused is not None:
        return f"layout=auto: {found.refused}; leave one of these out, so that it is chosen"
    degrees = [data_parallel(space, degrees) for degrees in shapes(space)]
    if not degrees:
        return (
            "layout=auto: no tensor, pipeline and sequence parallel degrees that were given divide the"
            f" {space.ranks} ranks; change them, or cluster.nodes"
        )
    least = min(degrees) * (space.micro_batch or 1) * (space.accumulation or 1)
    near = max(1, round(space.global_batch / least)) * least
    given = {"job.micro_batch": space.micro_batch, "job.gradient_accumulation": space.accumulation}
    also = "".join(f", {key}={value}" for key, value in given.items() if value)
    return (
        f"job.global_batch={space.global_batch}: no layout of {space.ranks} ranks divides it{also} (the"
        f" fewest data-parallel ranks are {min(degrees)}); use job.global_batch={near} or another"
        " cluster.nodes"
    )


def _nothing_fits(space: Space, subject: Subject, found: Found) -> str:
    closest = min(found.misses, key=lambda candidate: (candidate.lacks_bytes, candidate.simplicity))
    unit = subject.gpu.unit
    lacks = [f"{-closest.free_bytes / 1e9:.1f} GB per {unit}"] if closest.free_bytes < 0 else []
    if closest.host_free_bytes < 0:
        lacks.append(f"{-closest.host_free_bytes / 1e9:.1f} GB of each node's memory")
    remedies = []
    if (nodes := _nodes_that_fit(space, subject)) is not None:
        remedies.append(f"cluster.nodes={nodes}")
    offloaded = dataclasses.replace(space, shardings=(Sharding(Zero(3, True, True, overlap_comm=True)),))
    if (
        all(not sharding.zero.offload_optimizer for sharding in space.shardings)
        and explore(offloaded, subject).fitting
    ):
        remedies.append("deepspeed=zero3_offload")
    hosted = [miss for miss in found.misses if miss.host_free_bytes >= 0]
    if hosted:
        least = min(miss.memory.total_bytes for miss in hosted)
        remedies.append(f"a {unit} with {least / 1e9:.1f} GB or more")
    return (
        f"layout=auto: model={subject.model.name} fits {subject.gpu.name}"
        f" ({subject.gpu.memory_bytes / 1e9:.1f} GB) in none of {found.considered} layouts; the closest,"
        f" {in_words(closest)}, lacks {' and '.join(lacks)}; try"
        f" {' or '.join(remedies) or 'more or larger GPUs'}"
    )


def _nodes_that_fit(space: Space, subject: Subject) -> int | None:
    """The fewest nodes, doubled time and again, with which something fits, the batch as it is."""
    factor = 2
    while factor <= MOST_NODES_FACTOR:
        larger = dataclasses.replace(space, nodes=space.nodes * factor)
        if explore(larger, subject).fitting:
            return larger.nodes
        factor *= 2
    return None
