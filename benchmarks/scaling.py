"""How a launch grows: python -m benchmarks.scaling [--rounds N] [--most-ranks N] [--most-hosts N]

First with ranks, 1 to 16 on this machine, under torchrun, Ray Train and the orchestrator, the last two on a
cluster that is kept. Then with hosts, 1 to 6 of one rank each: hosts are namespaces of this machine with
network, processes and disks of their own, and one Ray over them all, which Ray Train and the orchestrator
share. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground
from benchmarks.launch import RAY_WARM, TORCHRUN, WARM, arguments
from benchmarks.launchers import ORCHESTRATOR_COMMAND, Launcher, Task, orchestrator_cluster
from benchmarks.on_hosts import ray_on_hosts
from benchmarks.phases import Launch, total_s
from benchmarks.report import REPORT, conditions, write_section
from tests.hosts.hosts import NoHostsError

Launches = dict[str, dict[int, list[Launch]]]  # by launcher and by ranks or hosts, one for each round


def sizes(most: int) -> list[int]:
    """Powers of two up to `most`."""
    return [2**power for power in range(most.bit_length())]


def in_turn(
    here: Ground, launcher: Launcher, tasks: Mapping[int, Task], into: dict[int, list[Launch]], say: str
) -> None:
    """One launch of each size."""
    for size, task in tasks.items():
        here.rest()
        into.setdefault(size, []).append(launcher.launch(here, task))
        print(f"{say}, {size}: {into[size][-1].total_s:.2f} s", flush=True)


def by_ranks(here: Ground, most: int, rounds: int) -> Launches:
    """Launches on this machine; every other round takes the launchers backwards."""
    cases = [TORCHRUN, RAY_WARM, WARM]
    launches: Launches = {case.name: {} for case in cases}
    for turn in range(rounds):
        for case in cases[:: -1 if turn % 2 else 1]:
            with case.ready(here, Task(most)) as ready:
                tasks = {ranks: replace(ready, ranks=ranks) for ranks in sizes(most)}
                in_turn(
                    here,
                    case.launcher,
                    tasks,
                    launches[case.name],
                    f"round {turn + 1}/{rounds}: {case.name}, ranks",
                )
    return launches


def by_hosts(here: Ground, most: int, rounds: int) -> Launches:
    """Launches on hosts that share one Ray. Raises NoHostsError."""
    cases = [RAY_WARM, WARM]
    launches: Launches = {case.name: {} for case in cases}
    with ray_on_hosts(here, most) as (first_host, address):
        tasks = {hosts: Task(hosts, hosts=hosts, address=address) for hosts in range(1, most + 1)}
        first_host.run(
            [*ORCHESTRATOR_COMMAND, "up", f"ray_address={address}", *orchestrator_cluster(tasks[most])]
        )
        for turn in range(rounds):
            for case in cases[:: -1 if turn % 2 else 1]:
                say = f"round {turn + 1}/{rounds}: {case.name}, hosts"
                in_turn(first_host, case.launcher, tasks, launches[case.name], say)
        first_host.run([*ORCHESTRATOR_COMMAND, "down"])
    return launches


# --- the report ---------------------------------------------------------------------------------


def rows(launches: Launches) -> list[list[str]]:
    """Median and spread of each size, with a column per launcher."""

    def cell(of_one: Sequence[Launch]) -> str:
        return f"{total_s(of_one):.2f} ({spread([launch.total_s for launch in of_one], 1)})"

    every_size = next(iter(launches.values()))
    return [[str(size), *(cell(by_size[size]) for by_size in launches.values())] for size in every_size]


def growth(launches: Launches) -> str:
    """Seconds that each further rank or host costs, from the least to the most."""
    parts = []
    for name, by_size in launches.items():
        least, most = min(by_size), max(by_size)
        if most > least:
            more_s = (total_s(by_size[most]) - total_s(by_size[least])) / (most - least)
            parts.append(f"{name} {more_s:+.2f} s")
    return "; ".join(parts)


def section(ranks: Launches, hosts: Launches | str, rounds: int, command: str, load: float) -> str:
    cores = len(os.sched_getaffinity(0))
    lines = [
        "## How a launch grows",
        "",
        (
            "From the command to the first step done, in seconds: median and spread of"
            f" {interleaved_rounds(rounds)}; gloo, ZeRO-2, one thread for each rank."
        ),
        "",
        *table(["ranks on this machine", *ranks], rows(ranks)),
        "",
        (
            f"Each further rank: {growth(ranks)}. This machine has {cores} cores: with more ranks than that,"
            " those that import for themselves wait for each other, and forked ones have nothing to import."
        ),
        "",
    ]
    if isinstance(hosts, str):
        lines += [f"Not measured here, for want of hosts: {hosts}", ""]
    else:
        lines += [
            *table(["hosts of one rank", *hosts], rows(hosts)),
            "",
            (
                f"Each further host: {growth(hosts)}. Hosts are namespaces of this one machine: they share"
                " its cores and have no network latency, so that this shows the growth of the launchers' own"
                " work, not that of a data centre."
            ),
            "",
        ]
    return "\n".join([*lines, *conditions(command, load)])


def main() -> int:
    parser = arguments(3, __doc__)
    parser.add_argument("--most-ranks", type=int, default=16)
    parser.add_argument("--most-hosts", type=int, default=6)
    args, load = parser.parse_args(), os.getloadavg()[0]
    hosts: Launches | str
    with ground() as here:
        ranks = by_ranks(here, args.most_ranks, args.rounds)
        here.ended()
        try:
            hosts = by_hosts(here, args.most_hosts, args.rounds)
        except NoHostsError as error:
            hosts = str(error)
    command = f"python -m benchmarks.scaling --rounds {args.rounds} --most-ranks {args.most_ranks}"
    text = section(ranks, hosts, args.rounds, f"{command} --most-hosts {args.most_hosts}", load)
    write_section("scaling", text)
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
