"""Figures of all nodes in, findings out: what is below its threshold, or far from the cluster's own
median."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import gt

from orchestrator.check.findings import LINK, Finding, Grave
from orchestrator.check.reports import Figure, NodeReport, What
from orchestrator.check.rounds import Paths
from orchestrator.config.check_schema import CheckConfig

MEDIAN = "the cluster's median"
# Of two nodes the better one is no median; three outvote one.
_ENOUGH = 3
# A link that went down so often since the machine started is no news: cables are plugged in.
_FEW_DOWNS = 3
_COUNTERS = {
    What.ECC: "since its driver was loaded",
    What.REMAPS: "a row remapping waits for a reset, or has failed",
    What.XID: "in the kernel's log",
    What.THERMAL: "heat or a power brake slows it now",
}


@dataclass(frozen=True)
class Expected:
    """What is published of the hardware, null where nothing is: FLOP/s and bytes/s of one GPU, bytes/s that a
    node sends to another."""

    gpu: bool = False
    matmul_flops_per_s: float | None = None
    memory_bytes_per_s: float | None = None
    exchange_bytes_per_s: float | None = None


def judge(reports: Sequence[NodeReport], limits: CheckConfig, expected: Expected) -> list[Finding]:
    """What is wrong with nodes and GPUs, in the order of the nodes."""
    found = [
        *_failed(reports),
        *_rates(reports, limits, expected),
        *_floors(reports, limits),
        *_processors(reports, limits),
        *_clocks(reports, limits),
        *_counters(reports),
        *_links_lost(reports),
        *_versions(reports),
    ]
    order = {report.node: place for place, report in enumerate(reports)}
    return sorted(found, key=lambda one: (order[one.node], one.grave is Grave.ODD))


def judge_paths(paths: Paths, names: Sequence[str], expected: float | None) -> list[Finding]:
    """What is wrong between nodes."""
    wanted, against = max(
        (paths.usual, "what the better pairs of nodes exchange"), (expected or 0.0, "the fabric")
    )
    found = []
    for node, rate in sorted(paths.slow_nodes.items()):
        link = f"all of {names[node]}"
        detail = "it is slow to every other node, and its processors are not: cable, NIC or switch port"
        found.append(
            Finding(names[node], What.EXCHANGE, Grave.BAD, rate, wanted, against, link=link, detail=detail)
        )
    for (a, b), rate in sorted(paths.slow_links.items()):
        both = f"{names[a]}{LINK}{names[b]}"
        apart = bool(paths.pairs.keys() - {(a, b)})
        detail = (
            "each is well with another node: what is between them"
            if apart
            else "one of them, or what joins them"
        )
        found.append(Finding(both, What.EXCHANGE, Grave.BAD, rate, wanted, against, link=both, detail=detail))
    return found


def silent(node: str, timeout_s: float) -> Finding:
    """A node that has not answered."""
    return Finding(
        node, What.ANSWER, Grave.BAD, None, timeout_s, "check.timeout_s", detail="it did not answer"
    )


def _failed(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    for report in reports:
        for what, why in report.failed:
            yield Finding(report.node, what, Grave.BAD, None, None, "", detail=why)


def _rates(reports: Sequence[NodeReport], limits: CheckConfig, expected: Expected) -> Iterator[Finding]:
    """Against what is published, and against all the others; the higher of the two is what is expected."""
    gpu_share, host_share = limits.least_gpu_share, limits.least_host_share
    of_gpu = gpu_share if expected.gpu else host_share
    published = {
        What.MATMUL: (expected.matmul_flops_per_s, gpu_share, "the best that is published"),
        What.MEMORY: (expected.memory_bytes_per_s, limits.least_memory_share, "the data sheet"),
    }
    shares = {
        What.MATMUL: of_gpu, What.MEMORY: of_gpu, What.ALL_REDUCE: of_gpu,
        What.DISK: host_share, What.SHM: host_share, What.GIVEN: host_share,
    }  # fmt: skip
    for what, share in shares.items():
        figures = [(report.node, one) for report in reports for one in report.of(what)]
        median = statistics.median_high(one.value for _, one in figures) if len(figures) >= _ENOUGH else None
        own = {what: (median, share, MEDIAN)} if median is not None else {}
        for node, one in figures:
            missed = [
                (value, against)
                for value, least, against in (*_of(published, what), *_of(own, what))
                if value is not None and one.value < least * value
            ]
            if missed:
                value, against = max(missed)
                grave = Grave.ODD if what in (What.DISK, What.SHM) else Grave.BAD
                yield Finding(node, what, grave, one.value, value, against, one.gpu, detail=one.device)


def _of(
    table: Mapping[What, tuple[float | None, float, str]], what: What
) -> list[tuple[float | None, float, str]]:
    return [table[what]] if what in table else []


def _floors(reports: Sequence[NodeReport], limits: CheckConfig) -> Iterator[Finding]:
    floors: tuple[tuple[What, float, str], ...] = (
        (What.DISK, limits.least_disk_bytes_per_s, "check.least_disk_bytes_per_s"),
        (What.DISK_ROOM, limits.least_disk_room_bytes, "check.least_disk_room_bytes"),
        (What.SHM_ROOM, limits.least_shm_room_bytes, "check.least_shm_room_bytes"),
    )
    for what, least, key in floors:
        for node, one in _each(reports, what, partial(gt, least)):
            grave = Grave.BAD if what is What.DISK_ROOM else Grave.ODD
            yield Finding(node, what, grave, one.value, least, key, detail=one.device)


def _processors(reports: Sequence[NodeReport], limits: CheckConfig) -> Iterator[Finding]:
    most = limits.most_throttled
    for node, one in _each(reports, What.THROTTLED, lambda value: value > most):
        yield Finding(
            node, What.THROTTLED, Grave.BAD, one.value, most, "check.most_throttled",
            detail="a quota of its control group holds its processes back: raise the CPU limit",
        )  # fmt: skip


def _clocks(reports: Sequence[NodeReport], limits: CheckConfig) -> Iterator[Finding]:
    most = limits.most_clock_offset_s
    for node, one in _each(reports, What.CLOCK, lambda value: abs(value) > most):
        yield Finding(
            node, What.CLOCK, Grave.ODD, one.value, most, "check.most_clock_offset_s",
            detail="set it by the time server of the others",
        )  # fmt: skip


def _counters(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Faults that a GPU's own driver has counted."""
    for what, detail in _COUNTERS.items():
        for node, one in _each(reports, what, lambda value: value > 0):
            yield Finding(node, what, Grave.BAD, one.value, 0.0, "none", one.gpu, one.device, detail)
    for node, one in _each(reports, What.PCIE, lambda value: value < 1):
        detail = "it has fewer lanes than it could: seat it anew"
        yield Finding(node, What.PCIE, Grave.BAD, one.value, 1.0, "all its lanes", one.gpu, detail=detail)


def _links_lost(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Counters that never go back: what is far above the others' is said, what is not is age."""
    for what in (What.LINK_DOWNS, What.NVLINK):
        every = [(report.node, one) for report in reports for one in report.of(what)]
        usual = statistics.median_low(one.value for _, one in every) if len(every) >= _ENOUGH else 0.0
        for node, one in every:
            if one.value > 2 * usual + _FEW_DOWNS:
                yield Finding(node, what, Grave.ODD, one.value, usual, MEDIAN, one.gpu, one.device)


def _each(
    reports: Sequence[NodeReport], what: What, wrong: Callable[[float], bool]
) -> Iterator[tuple[str, Figure]]:
    return ((report.node, one) for report in reports for one in report.of(what) if wrong(one.value))


def _versions(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Against the majority; where there is none, every node is named."""
    names = sorted({name for report in reports for name in report.facts})
    for name in names:
        seen = Counter(report.facts.get(name, "missing") for report in reports)
        (usual, votes), *_ = seen.most_common()
        if len(seen) == 1:
            continue
        for report in reports:
            own = report.facts.get(name, "missing")
            if own != usual or 2 * votes <= len(reports):
                others = ", ".join(sorted(value[:24] for value in seen if value != own))
                detail = f"{name} is {own[:24]}, on others {others}"
                yield Finding(report.node, What.VERSIONS, Grave.BAD, None, None, "the others", detail=detail)
