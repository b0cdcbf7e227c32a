"""From the moments that a launch passed to the time that each of its phases took. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# The moments of job/first_step.py, in order, and the phase that ends at each.
RANK_PHASES = {
    "script": "start",
    "imported": "import",
    "cuda_context": "CUDA context",
    "process_group": "process group",
    "first_collective": "first collective",
    "initialized": "initialize",
    "first_step": "first step",
}
LAUNCHER_PHASES = ("tool", "attach", "place", "spawn")
PHASES = (*LAUNCHER_PHASES, *RANK_PHASES.values())


def slowest(ranks: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The moment at which the last rank had come to each point; Unix seconds, by the point's name."""
    points: dict[str, float] = {}
    for stamps in ranks:
        for name, moment in stamps.items():
            points[name] = max(moment, points.get(name, moment))
    return points


@dataclass(frozen=True)
class Launch:
    """One launch: seconds by phase, in order; a phase that the launcher does not show is not there."""

    phases: dict[str, float]

    @property
    def total_s(self) -> float:
        """From the command to the first step done."""
        return sum(self.phases.values())

    @classmethod
    def between(cls, begin_s: float, before_ranks: Mapping[str, float], ranks: Mapping[str, float]) -> Launch:
        """Cut the time since `begin_s` at the ends of phases.

        `before_ranks` holds ends by launcher phase, `ranks` the moments of the slowest rank by point. A phase
        whose end is not known counts with the one after it. Raises ValueError for ends that are out of order.
        """
        known = {name: before_ranks[name] for name in LAUNCHER_PHASES if name in before_ranks}
        known |= {phase: ranks[point] for point, phase in RANK_PHASES.items() if point in ranks}
        phases, last_s = {}, begin_s
        for name, end_s in known.items():
            # A process's start is known to a tick of the kernel only.
            if end_s < last_s - 0.02:
                raise ValueError(f"{name} ended {last_s - end_s:.3f} s before the phase before it: {known}")
            phases[name] = max(0.0, end_s - last_s)
            last_s = max(last_s, end_s)
        return cls(phases)


def typical(launches: Sequence[Launch]) -> Launch:
    """The launch whose total is the median (of an even number the faster of the two): its phases add up."""
    return sorted(launches, key=lambda launch: launch.total_s)[(len(launches) - 1) // 2]


def total_s(launches: Sequence[Launch]) -> float:
    return median(launch.total_s for launch in launches)


def phase_rows(launches: Mapping[str, Sequence[Launch]]) -> list[list[str]]:
    """One row per phase with a column per launcher, of its typical launch; phases that nobody has are left
    out."""
    typicals = [typical(of_one) for of_one in launches.values()]
    rows = []
    for phase in PHASES:
        cells = [f"{one.phases[phase]:.2f}" if phase in one.phases else "–" for one in typicals]
        if set(cells) != {"–"}:
            rows.append([phase, *cells])
    return rows
