"""How well the planner's collectives say what published ones measured, by platform.

    python -m benchmarks.bus_bandwidth [--json] [--write]

Bus bandwidth is what nccl-tests print: the bytes that each rank moves over the time, all-reduces counting
twice. The rows are benchmarks/planner/bus_bandwidth.csv; each names the words by which the planner is asked,
so its fabric, environment and NICs are those of a plan. Rows that rest on hardware which the model leaves out
are listed with the reason and are not in the mean.

`--json` prints `rows`, of each `platform`, `collective`, `nodes`, `measured_gb_per_s`, `predicted_gb_per_s`,
`error` (predicted / measured - 1) and `beyond`, and `mean_abs_error` over those that the model is of.
`--write` puts the table into docs/planner_validation.md.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a script: its own folder is no place to import from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.figures import table
from benchmarks.report import write_section
from orchestrator.config.composing import compose
from orchestrator.config.schema import Config
from orchestrator.plan.perf.collectives import Group, Network
from orchestrator.plan.perf.machine import Machine

ROWS = Path(__file__).parent / "planner" / "bus_bandwidth.csv"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "planner_validation.md"
SECTION = "bus bandwidth"
GIB = 2**30
USUAL_GIB = 4.0  # where a source names no size; nccl-tests' rates hardly change above one


@dataclass(frozen=True)
class Compared:
    """One published rate beside the planner's."""

    platform: str
    collective: str
    nodes: int
    measured_gb_per_s: float
    predicted_gb_per_s: float
    error: float
    source: str
    beyond: str  # what of it the model leaves out; empty where it is of the model


@functools.cache
def _config(words: str) -> Config:
    return compose(*words.split())


def bus_gb_per_s(words: str, nodes: int, per_node: int, collective: str, size_bytes: float) -> float:
    """What the planner expects of one collective of all these ranks."""
    config = _config(words)
    network, group = Network(Machine.of_config(config), config.planner), Group(nodes * per_node, per_node)
    moved = size_bytes * (group.ranks - 1) / group.ranks
    seconds, times = {
        "all_reduce": (network.all_reduce_s(size_bytes, group), 2),
        "all_gather": (network.gather_s(size_bytes, group), 1),
        "all_to_all": (network.all_to_all_s(size_bytes, group), 1),
    }[collective]
    return times * moved / seconds / 1e9


def compared(path: Path = ROWS) -> list[Compared]:
    """Every row of a file."""
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            nodes, measured = int(row["nodes"]), float(row["bus_gb_per_s"])
            size_bytes = float(row["gib"] or USUAL_GIB) * GIB
            predicted = bus_gb_per_s(
                row["words"], nodes, int(row["gpus_per_node"]), row["collective"], size_bytes
            )
            found.append(
                Compared(
                    platform=row["platform"],
                    collective=row["collective"],
                    nodes=nodes,
                    measured_gb_per_s=measured,
                    predicted_gb_per_s=predicted,
                    error=predicted / measured - 1,
                    source=row["source"],
                    beyond=row["beyond"],
                )
            )
    return found


def mean_abs_error(rows: list[Compared]) -> float:
    """Over the rows that the model is of."""
    return statistics.mean(abs(row.error) for row in rows if not row.beyond)


def page(rows: list[Compared]) -> str:
    """For docs/planner_validation.md."""
    own = [row for row in rows if not row.beyond]
    head = ["platform", "collective", "nodes", "published, GB/s", "predicted, GB/s", "error"]
    lines = table(
        head,
        (
            [
                row.platform + (f" ({row.beyond})" if row.beyond else ""),
                row.collective.replace("_", "-"),
                str(row.nodes),
                f"{row.measured_gb_per_s:.1f}",
                f"{row.predicted_gb_per_s:.1f}",
                f"{row.error:+.0%}",
            ]
            for row in rows
        ),
    )
    said = (
        f"{len(rows)} published rates; the mean error of the {len(own)} that the model is of is"
        f" {mean_abs_error(rows):.0%}. Sources row by row: benchmarks/planner/bus_bandwidth.csv."
    )
    return "\n".join([said, "", *lines])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predicted against published bus bandwidths.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    asked = parser.parse_args(arguments)
    rows = compared()
    if asked.write:
        write_section(SECTION, page(rows), PAGE)
    if asked.json:
        body = {"rows": [asdict(row) for row in rows], "mean_abs_error": mean_abs_error(rows)}
        print(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        print(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
