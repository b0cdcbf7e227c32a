"""How long the command line takes without a cluster: python -m tests.benchmarks.plan_time [--rounds N]

`orchestrator plan` as a whole process, beside a Python that does nothing and `--version`. The result
replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

from tests.benchmarks.figures import interleaved_rounds, spread, table
from tests.benchmarks.ground import Ground, ground
from tests.benchmarks.launch import arguments
from tests.benchmarks.launchers import ORCHESTRATOR_COMMAND
from tests.benchmarks.report import REPORT, conditions, write_section

CASES = {
    "`python -c pass`": [sys.executable, "-c", "pass"],
    "`orchestrator --version`": [*ORCHESTRATOR_COMMAND, "--version"],
    "`orchestrator plan`": [*ORCHESTRATOR_COMMAND, "plan"],
    "`orchestrator plan job=llama3_8b cluster=dgx_h100 cluster.nodes=8`": [
        *(*ORCHESTRATOR_COMMAND, "plan", "job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=8")
    ],
}


def process_s(here: Ground, command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=here.folder, env=here.env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> int:
    args, load = arguments(10, __doc__).parse_args(), os.getloadavg()[0]
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with ground() as here:
        for _ in range(args.rounds):
            for name, command in CASES.items():
                times[name].append(process_s(here, command))
    rows = [[name, f"{median(seconds):.2f}", spread(seconds)] for name, seconds in times.items()]
    lines = [
        "## The command line",
        "",
        f"Whole processes, {interleaved_rounds(args.rounds)}; `plan` asks no cluster and loads neither torch nor Ray.",
        "",
        *table(["command", "median, s", "rounds, s"], rows),
        "",
        *conditions(f"python -m tests.benchmarks.plan_time --rounds {args.rounds}", load),
    ]
    text = "\n".join(lines)
    write_section("plan_time", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
