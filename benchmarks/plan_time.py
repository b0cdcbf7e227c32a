"""How much processor time the command line takes without a cluster: python -m benchmarks.plan_time [--rounds
N]

`orchestrator plan` as a whole process, beside a Python that does nothing and `--version`; which heavy
modules it loads; and where its time goes. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from statistics import median

from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground
from benchmarks.launch import arguments
from benchmarks.launchers import ORCHESTRATOR_COMMAND
from benchmarks.report import REPORT, conditions, write_section

GOAL_S = 0.5
HEAVY = ("torch", "ray", "mlflow", "deepspeed", "numpy", "pandas", "matplotlib")
CHOICE = ("job=llama3_70b", "cluster=azure_nd_h100_v5")
NOTHING, MEASURED = "`python -c pass`", f"`orchestrator plan {' '.join(CHOICE)}`"
CASES = {
    NOTHING: [sys.executable, "-c", "pass"],
    "`orchestrator --version`": [*ORCHESTRATOR_COMMAND, "--version"],
    "`orchestrator plan`": [*ORCHESTRATOR_COMMAND, "plan"],
    MEASURED: [*ORCHESTRATOR_COMMAND, "plan", *CHOICE],
    f"{MEASURED[:-1]} --json`": [*ORCHESTRATOR_COMMAND, "plan", *CHOICE, "--json"],
}
# The steps of cli.py's `plan` in their order, each with the processor time at its end.
PARTS = """
import gc, json, sys, time
gc.disable()
marks = [("", time.process_time())]
def done(part): marks.append((part, time.process_time()))
import hydra; done("import Hydra and OmegaConf")
from rich.console import Console
from orchestrator.config import schema; done("import Rich and the schema")
from orchestrator.config import composing, load
load.register(); done("schema to OmegaConf")
composed = composing.composed(sys.argv[1:]).config; done("compose")
gc.freeze(); gc.enable()
config = load.load(composed); done("resolve and check")
from orchestrator.cli.show.plan import show_plan
from orchestrator.driver.preflight import plan_of; done("import the planner")
plan = plan_of(config, observed=False); done("find script and corpus, plan")
show_plan(plan, Console(emoji=False)); done("print")
spent = {name: end - begin for (_, begin), (name, end) in zip(marks, marks[1:])}
print(json.dumps(spent), file=sys.stderr)
"""


def processor_s(here: Ground, command: list[str]) -> float:
    """User and system time of a process, from its start to its end."""
    child = subprocess.Popen(command, cwd=here.folder, env=here.env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return used.ru_utime + used.ru_stime


def told(here: Ground, command: list[str]) -> str:
    """What a command says on stderr."""
    return subprocess.run(
        command, cwd=here.folder, env=here.env, capture_output=True, text=True, check=True
    ).stderr


def heavy_modules(import_times: str) -> list[str]:
    """The heavy ones among the modules that `python -X importtime` named."""
    loaded = set(re.findall(r"^import time:[ \d]+\|[ \d]+\| +(\w+)$", import_times, re.MULTILINE))
    return [name for name in HEAVY if name in loaded]


def main() -> int:
    args, load = arguments(10, __doc__).parse_args(), os.getloadavg()[0]
    times: dict[str, list[float]] = {name: [] for name in CASES}
    parts: dict[str, list[float]] = {}
    with ground() as here:
        interpreter, *rest = CASES[MEASURED]
        heavy = heavy_modules(told(here, [interpreter, "-X", "importtime", *rest]))  # writes the bytecode too
        for _ in range(args.rounds):
            for name, command in CASES.items():
                times[name].append(processor_s(here, command))
            for part, spent_s in json.loads(told(here, [sys.executable, "-c", PARTS, *CHOICE])).items():
                parts.setdefault(part, []).append(spent_s)
    own_s = median(times[MEASURED]) - median(times[NOTHING])
    lines = [
        "## The command line",
        "",
        (
            f"Processor time of whole processes, {interleaved_rounds(args.rounds)}. A plan asks no cluster;"
            f" heavy modules ({', '.join(HEAVY)}) that it loads: {', '.join(heavy) or 'none'}."
        ),
        "",
        *table(
            ["command", "median, s", "rounds, s"],
            [[n, f"{median(s):.2f}", spread(s)] for n, s in times.items()],
        ),
        "",
        (
            f"{MEASURED} takes {own_s:.2f} s after the start of the interpreter; the goal is {GOAL_S:g} s."
            " Where they go:"
        ),
        "",
        *table(
            ["part", "median, ms"], [[part, f"{median(spent) * 1e3:.0f}"] for part, spent in parts.items()]
        ),
        "",
        *conditions(f"python -m benchmarks.plan_time --rounds {args.rounds}", load),
    ]
    text = "\n".join(lines)
    write_section("plan_time", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0 if own_s <= GOAL_S and not heavy else 1


if __name__ == "__main__":
    sys.exit(main())
