"""docs/benchmarks.md: each benchmark owns the section between its marks, and leaves the others alone."""

from __future__ import annotations

import datetime
import os
import platform
import re
import textwrap
from importlib.metadata import version
from pathlib import Path

import psutil
import pynvml

REPORT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
WIDTH = 110
# In the order in which they are read, and measured by `make bench`.
SECTIONS = (
    *("launch", "scaling", "restart", "preempt", "script_launch", "goodput", "snapshot_stall", "zygote"),
    *(
        "steady",
        "probe_overhead",
        "tick",
        "journal",
        "growth",
        "ledger_cost",
        "running_jobs",
        "many_journals",
        "compare_runs",
        "plan_time",
        "search_time",
        "planner_on_this_machine",
    ),
)
# Measured where there is a GPU, by a target of its own.
SECTIONS_OF_A_GPU = ("gpu_check",)
HEAD = "# Benchmarks\n\nMeasured, not promised; `make bench` measures them anew on the machine it runs on.\n"


def gpus() -> list[str]:
    """Product names of this machine's NVIDIA GPUs; asking creates no CUDA context."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        count = pynvml.nvmlDeviceGetCount()
        return [
            str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)
        ]
    finally:
        pynvml.nvmlShutdown()


def conditions(command: str, load: float) -> list[str]:
    """What a reader must know to judge a number: machine, versions, date and command.

    `load` is the load average from before the benchmark put its own on top.
    """
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = {
        line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")
    }
    cores, memory_bytes = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "ray"))
    cards = ", ".join(gpus()) or "no GPU"
    return [
        f"- hardware: {' and '.join(sorted(models)) or platform.machine()}, {cores} cores, "
        f"{memory_bytes / 2**30:.0f} GiB, {cards}; load average before the start {load:.1f}",
        f"- versions: Python {platform.python_version()}, {versions}, Linux {platform.release()}",
        f"- {datetime.date.today().isoformat()}, `{command}`",
    ]


def write_section(name: str, text: str, report: Path = REPORT) -> None:
    """Put a benchmark's section between its marks, or where it belongs when it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    known = report.read_text() if report.exists() else HEAD
    if (begin in known) != (end in known):
        raise RuntimeError(f"{report} has only one of {begin} and {end}: put both back, or take both out")
    if begin not in known:
        order = (*SECTIONS, *SECTIONS_OF_A_GPU)
        later = order[order.index(name) + 1 :]
        places = [known.find(f"<!-- {other}: begin -->") for other in later]
        place = min((found for found in places if found >= 0), default=len(known))
        known = f"{known[:place].rstrip()}\n\n{begin}\n{end}\n\n{known[place:]}".rstrip() + "\n"
    before, after = known.partition(begin)[0], known.partition(end)[2]
    report.write_text(f"{before}{begin}\n{_wrapped(text)}\n{end}{after}")


def _wrapped(text: str) -> str:
    """Paragraphs of prose and entries of lists in lines that are not too long; tables and code as they
    are."""
    parts, in_code = [], False
    for part in text.split("\n\n"):
        prose = not in_code and not part.startswith(("|", "#", "`" * 3, "<", " "))
        in_code ^= part.count("`" * 3) % 2 == 1
        entries = re.split(r"\n(?=- )", part) if part.startswith("- ") else [part]
        parts.append("\n".join(map(_filled, entries)) if prose else part)
    return "\n\n".join(parts)


def _filled(entry: str) -> str:
    inside = "  " if entry.startswith("- ") else ""
    return textwrap.fill(
        entry, WIDTH, subsequent_indent=inside, break_long_words=False, break_on_hyphens=False
    )
