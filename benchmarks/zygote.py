"""What a fork saves: python -m benchmarks.zygote [--rounds N]

Without Ray and without an agent: two ranks of job/first_step.py are forked from a zygote that is ready, or
started as interpreters, in turn, until their first step is done. Beside that, how long the zygote takes
to be ready. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from statistics import median

from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground
from benchmarks.launch import arguments, chosen_device
from benchmarks.launchers import Place, Task, check_alike, ranks_in_words, script_arguments
from benchmarks.phases import Launch, phase_rows, slowest, total_s
from benchmarks.report import REPORT, conditions, write_section
from orchestrator.rank.launch.launcher import ExecLauncher, Launcher, ZygoteLauncher
from tests.support.rank_harness import Bench

FORKED, EXECUTED = "forked", "exec'd"


def start(launcher: Launcher, here: Ground, task: Task) -> Launch:
    """From the call that starts the first rank to the first step done by all."""
    place = Place.fresh(here)
    words, bench = script_arguments(task, place), Bench(launcher, place.folder, here.env)
    begin_unix_s = time.time()
    try:
        for outcome in [bench.finish(rank) for rank in bench.start_world(*words, world_size=task.ranks)]:
            if outcome.status != 0:
                raise RuntimeError(f"a rank ended with {outcome.status}: {outcome.output[-2000:]}")
    finally:
        bench.clear()
    ranks = place.ranks()
    check_alike(ranks, task, here)
    moments = slowest(rank["stamps"] for rank in ranks)
    return Launch.between(begin_unix_s, {"spawn": moments["process"]}, moments)


def measure(here: Ground, task: Task, rounds: int) -> tuple[list[float], dict[str, list[Launch]]]:
    """Seconds until a zygote is ready, and the launches by way to start, of each round."""
    ready_s: list[float] = []
    launches: dict[str, list[Launch]] = {FORKED: [], EXECUTED: []}
    for turn in range(rounds):
        here.rest()
        begin = time.perf_counter()
        with closing(ZygoteLauncher(here.env)) as zygote, closing(ExecLauncher()) as by_exec:
            zygote.wait_ready()
            ready_s.append(time.perf_counter() - begin)
            for name, launcher in ((FORKED, zygote), (EXECUTED, by_exec)):
                launches[name].append(start(launcher, here, task))
                print(f"round {turn + 1}/{rounds}: {name}: {launches[name][-1].total_s:.2f} s", flush=True)
    return ready_s, launches


def section(
    ready_s: Sequence[float], launches: Mapping[str, Sequence[Launch]], task: Task, rounds: int, load: float
) -> str:
    totals = [["zygote ready", f"{median(ready_s):.2f}", spread(ready_s)]]
    for name, of_one in launches.items():
        totals.append(
            [f"{name}, first step done", f"{total_s(of_one):.2f}", spread([one.total_s for one in of_one])]
        )
    saved_s = total_s(launches[EXECUTED]) - total_s(launches[FORKED])
    lines = [
        "## The zygote",
        "",
        f"{ranks_in_words(task)}, ZeRO-2, no Ray; {interleaved_rounds(rounds)}.",
        "",
        *table(["", "median, s", "rounds, s"], totals),
        "",
        *table(["phase, s, of the launch with the median total", *launches], phase_rows(launches)),
        "",
        (
            f"A fork saves {saved_s:.1f} s of every start and restart once the zygote is ready, and what it"
            f" imports ({median(ready_s):.1f} s) is imported once, for all ranks and restarts together."
        ),
        "",
        *conditions(f"python -m benchmarks.zygote --rounds {rounds}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    args, load = arguments(5, __doc__, device=True).parse_args(), os.getloadavg()[0]
    task = chosen_device(args.device, args.ranks)
    with ground(device="cuda" if task.cuda else "cpu") as here:
        ready_s, launches = measure(here, task, args.rounds)
    text = section(ready_s, launches, task, args.rounds, load)
    write_section("zygote", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
