"""What vTrain's steps on one node are made of, and how well any law of such profiles ranks its layouts.

    python -m benchmarks.planner_profiles

Each layout's steps are a sum of four terms: of nothing, layers, micro-batches, and both together. The
command prints how exactly, and what a layer takes for each hidden size, tensor parallel degree and
micro-batch, which is the same in all layouts. Then it takes the time of a layer from a law, whose three
constants it fits to these very figures, and all else as the table has it: what such a law can reach there.
"""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from benchmarks import planner_rows
from benchmarks.planner_fit import ROWS, load_constants
from benchmarks.planner_rows import Case
from orchestrator.config.schema import PlannerConfig
from orchestrator.plan.perf import kernels
from orchestrator.plan.perf.collectives import Group, Network

TABLE = "vtrain_single"
# Of vTrain's own model, which divides it as it is (src/config.py, src/model/gpt_modeling.py).
VOCABULARY = 50257
EXPONENTS = (2, 4, 8)  # host and GPU wait for each other: 1 would add them, infinity take the larger
# Rows and columns of a tile, and its share of the rate.
TILES = {
    "no tiles": ((1, 1, 1.0),),
    "the planner's tiles": kernels.TILES,
    "tiles of 256 x 128 alone": ((128, 256, 1.0), (256, 128, 1.0)),
    "eight sizes of tiles": (
        *((128, 256, 1.0), (256, 128, 1.0), (128, 128, 0.95), (256, 64, 0.9)),
        *((64, 256, 0.9), (128, 64, 0.85), (64, 128, 0.85), (64, 64, 0.7)),
    ),
}


class Profile(NamedTuple):
    """What the seconds of a layer depend on."""

    hidden: int
    tp: int
    micro_batch: int


Layouts = Mapping[tuple[Profile, int, int], Sequence[Case]]


def by_layout(cases: Sequence[Case]) -> Layouts:
    """By profile, pipeline and data parallel degree."""
    found: dict[tuple[Profile, int, int], list[Case]] = collections.defaultdict(list)
    for case in cases:
        laid = case.layout
        found[(Profile(case.model.hidden, laid.tp, laid.micro_batch), laid.pp, laid.dp)].append(case)
    return dict(sorted(found.items()))


def terms(cases: Sequence[Case]) -> tuple[np.ndarray, float]:
    """Seconds of a step, of a layer once a step, of a micro-batch, and of a layer in each micro-batch; and
    the largest relative deviation of a row from their sum."""
    counts = [(case.model.layers, case.layout.accumulation) for case in cases]
    shape = np.array([[1, layers, micro, layers * micro] for layers, micro in counts])
    seconds = np.array([case.step_s for case in cases])
    found = np.linalg.lstsq(shape / seconds[:, None], np.ones(len(cases)), rcond=None)[0]
    return found, float(np.abs(shape @ found / seconds - 1).max())


def layer_seconds(layouts: Layouts) -> dict[Profile, list[float]]:
    """Of each layout. Rows of micro-batches of 8 all have two of them: of these it is what is left when that
    part has been taken off which a layer has once a step, whatever the micro-batch."""
    found: dict[Profile, list[float]] = collections.defaultdict(list)
    once: dict[tuple[int, int, int], float] = {}
    for (profile, pp, dp), cases in layouts.items():
        law, _ = terms(cases)
        micro = {case.layout.accumulation for case in cases}
        if len(micro) > 1:
            found[profile].append(float(law[3]) * pp)
            if pp == 1:
                once[(profile.hidden, profile.tp, dp)] = float(law[1])
        elif pp == 1:
            (count,) = micro
            whole = float(law[1] + count * law[3])
            found[profile].append((whole - once[(profile.hidden, profile.tp, dp)]) / count)
    return dict(found)


def head_seconds(layouts: Layouts) -> dict[Profile, float]:
    """Of embedding, head and loss, where rows differ in the number of micro-batches."""
    return {
        profile: float(terms(cases)[0][2])
        for (profile, pp, _), cases in layouts.items()
        if pp == 1 and len({case.layout.accumulation for case in cases}) > 1
    }


def planned_head(case: Case, constants: PlannerConfig, fills: bool) -> float:
    """The planner's seconds for vTrain's own vocabulary, filled up or as it is."""
    model = replace(case.model, vocab=VOCABULARY)
    software = replace(case.software, pads_vocabulary=fills)
    times = kernels.Kernels(model, case.machine, constants, case.precision, software)
    head = times.head(case.layout.micro_batch, case.layout.tp)
    return head.forward_s + head.backward_s


def work(case: Case, constants: PlannerConfig) -> tuple[float, float]:
    """Seconds that a GPU computes of one layer, forward and backward, and that its all-reduces take."""
    times = kernels.Kernels(case.model, case.machine, constants, case.precision, case.software)
    layer = times.layer(case.layout.micro_batch, case.layout.tp, 1)
    size = case.layout.micro_batch * case.model.seq_len * case.model.hidden * 2
    group = Group(case.layout.tp, case.layout.tp)
    return layer.forward_s + layer.backward_s, 4 * Network(case.machine, constants).all_reduce_s(size, group)


def fitted(
    profiles: Mapping[Profile, float], busy: Mapping[Profile, tuple[float, float]], power: int
) -> dict[Profile, float]:
    """A layer's seconds by the law: (host ** power + GPU ** power) ** (1 / power), the host's with the tensor
    parallel ranks, the GPU's in proportion to its work."""
    ranks = np.log2([profile.tp for profile in profiles])
    compute, sends = np.array([busy[profile] for profile in profiles]).T

    def law(point: np.ndarray) -> np.ndarray:
        host = math.exp(point[0]) * (1 + point[1] * ranks)
        gpu = math.exp(point[2]) * compute + sends
        return np.asarray((host**power + gpu**power) ** (1 / power))

    measured = np.log(list(profiles.values()))
    found = least_squares(lambda point: np.log(law(point)) - measured, [math.log(3e-3), 0.1, 0.0])
    return dict(zip(profiles, law(found.x).tolist(), strict=True))


def judged(layouts: Layouts, change: Mapping[Profile, float]) -> tuple[float, float, float]:
    """Mean error, rank correlation and regret of steps whose layers take `change` seconds more."""
    errors: list[float] = []
    groups: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for (profile, pp, _), cases in layouts.items():
        for case in cases:
            passes = (case.layout.accumulation + pp - 1) * case.model.layers / pp
            predicted = case.step_s + change[profile] * passes
            errors.append(abs(predicted / case.step_s - 1))
            groups[case.group].append((predicted, case.step_s))
    sizes = [len(group) for group in groups.values()]
    ranks = [float(spearmanr(*zip(*group, strict=True)).statistic) for group in groups.values()]
    regrets = [min(group)[1] / min(seconds for _, seconds in group) - 1 for group in groups.values()]
    return (
        statistics.fmean(errors),
        float(np.average(ranks, weights=sizes)),
        float(np.average(regrets, weights=sizes)),
    )


def main() -> None:
    constants = load_constants()
    rows = [row for row in planner_rows.read(ROWS) if row["table"] == TABLE]
    layouts = by_layout(planner_rows.cases(rows, constants)[0])
    off = [terms(cases)[1] for cases in layouts.values()]
    print(
        f"{len(rows)} rows, {len(layouts)} layouts: off the sum of its layout's four terms is a row at most"
    )
    print(f"by {statistics.median(off):.1e} in the median layout, by {max(off):.1%} in the worst")
    seconds = layer_seconds(layouts)
    heads = head_seconds(layouts)
    for profile, found in seconds.items():
        head = f", {1e3 * heads[profile]:.2f} ms its head" if profile in heads else ""
        least, most = 1e3 * min(found), 1e3 * max(found)
        print(f"{profile}: {least:.3f} to {most:.3f} ms a layer in {len(found)} layouts{head}")
    profiles = {profile: statistics.fmean(found) for profile, found in seconds.items()}
    shapes = {profile: cases[0] for (profile, _, _), cases in layouts.items()}
    for fills in (False, True):
        planned = {profile: planned_head(shapes[profile], constants, fills) for profile in heads}
        error = statistics.fmean(abs(planned[profile] / heads[profile] - 1) for profile in heads)
        print(
            f"heads as planned, their vocabulary {'filled up' if fills else 'as it is'}: off by {error:.0%}"
        )
    for name, tiles in TILES.items():
        with mock.patch.object(kernels, "TILES", tiles):
            busy = {profile: work(case, constants) for profile, case in shapes.items()}
        for power in EXPONENTS:
            law = fitted(profiles, busy, power)
            error, rank, regret = judged(layouts, {p: law[p] - s for p, s in profiles.items()})
            spread = math.sqrt(statistics.fmean(math.log(law[p] / s) ** 2 for p, s in profiles.items()))
            print(f"{name}, power {power}: a layer off by {spread:.1%}, steps by {error:.1%};"
                  f" rank correlation {rank:.2f}, regret {regret:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
