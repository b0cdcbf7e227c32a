"""How long `layout=auto` searches: python -m benchmarks.search_time [--rounds N]

Every kind of parallelism, in this process, on one core. The result replaces this benchmark's section of
docs/benchmarks.md.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from statistics import median

from hydra import compose, initialize_config_dir

from benchmarks.figures import spread, table
from benchmarks.launch import arguments
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.config import load
from orchestrator.plan.search.runners_up import in_words
from orchestrator.plan.search.search import search
from orchestrator.planner.auto_layout import Choice, choose

# model, nodes of eight H100, sequences in a step
CASES = (
    ("llama3_8b", 4, 512),
    ("llama3_70b", 64, 2048),
    ("qwen3_30b_a3b", 64, 2048),
    ("llama3_405b", 2048, 2048),
    ("llama3_405b", 2048, 16384),
    ("llama3_405b", 54000, 54000),
    ("llama3_405b", 54000, 864000),
)


def chosen(model: str, nodes: int, batch: int) -> tuple[float, Choice]:
    """Seconds from what Hydra composed to the configuration with the choice in it, and that choice."""
    words = [
        *("job=pretrain", f"model={model}", "cluster=azure_nd_h100_v5", f"cluster.nodes={nodes}"),
        *(f"job.global_batch={batch}", "job.supports=null", "layout=auto"),
    ]
    with initialize_config_dir(str(load.conf_dir()), version_base="1.3"):
        composed = compose("config", overrides=words)
    gc.collect()
    begin = time.perf_counter()
    choice = choose(composed, words)
    return time.perf_counter() - begin, choice


def search_s(choice: Choice) -> float:
    """Seconds of the search alone, nothing cached from before."""
    gc.collect()
    begin = time.perf_counter()
    search(choice.space, choice.subject)
    return time.perf_counter() - begin


def main() -> int:
    args, load_before = arguments(5, __doc__).parse_args(), os.getloadavg()[0]
    load.register()
    rows = []
    for model, nodes, batch in CASES:
        whole, alone = [], []
        for _ in range(args.rounds):
            seconds, choice = chosen(model, nodes, batch)
            whole.append(seconds)
            alone.append(search_s(choice))
        found = choice.search
        rows.append(
            [
                model, f"{nodes * 8:,}", f"{batch:,}", f"{found.considered:,}", f"{found.fitting:,}",
                f"{median(alone):.3f}", spread(alone, 3), f"{median(whole):.3f}", in_words(found.best),
            ]
        )  # fmt: skip
    head = [
        "model",
        "GPUs",
        "batch",
        "layouts",
        "that fit",
        "search, s",
        "rounds, s",
        "with Hydra, s",
        "chosen",
    ]
    lines = [
        "## The cheapest layout",
        "",
        (
            "`layout=auto` for a script that can do every kind of parallelism, on nodes of eight H100,"
            f" median of {args.rounds} rounds on one core. Beside the search alone, all from what Hydra"
            " composed to the configuration with the choice in it."
        ),
        "",
        *table(head, rows),
        "",
        *conditions(f"python -m benchmarks.search_time --rounds {args.rounds}", load_before),
    ]
    text = "\n".join(lines)
    write_section("search_time", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
