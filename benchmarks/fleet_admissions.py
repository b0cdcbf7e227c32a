"""How many submissions a second the queue takes: python -m benchmarks.fleet_admissions [--jobs 4000] [--by 4]

Processes submit jobs of their own, each waiting until the last is on the disk, while a daemon of the same
database decides about whom it finds; nothing is started, since no node is there. It ends when the daemon has
seen all. What a client does before, planning its job, is not in it. Then the same number is submitted as one
list.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.dispatch.daemon import Daemon
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.fleet_file import FleetFile, read_fleet_file
from orchestrator.dispatch.seen import Presence, SeenNode
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.submitting import Sender, submit
from orchestrator.fleet.jobs import JobSpec, PoolPlan

_FLEET = """
pools:
  h100: {nodes: 64, gpus_per_node: 8}
teams:
  nlp: {quota: {h100: 256}}
  vision: {quota: {h100: 256}}
"""


class _NoDrivers:
    """No job has nodes, so nobody asks for a driver."""

    def seen(self, entry: Entry) -> Presence:
        raise AssertionError(f"{entry.key} has no nodes")

    def start(self, entry: Entry, node_ids: tuple[str, ...]) -> None:
        raise AssertionError(f"{entry.key} has no nodes")

    ask_to_stop = signal = start


def _spec(key: str) -> JobSpec:
    words = ("job=llama3_8b", "model.seq_len=8192", f"job.args.seed={key[1:]}")
    return JobSpec(
        key, "nlp", (PoolPlan("h100", 64, 20.0, 0.2, 3.1, 2560.0),), "somebody", "train.py", words, "batch"
    )


def _submits(root: Path, first: int, many: int) -> None:
    with Store(root / "fleet") as store:
        for number in range(first, first + many):
            submit(store, [_spec(f"j{number}")], Sender(root, str(root), "somebody"), time.time())


def _leads(root: Path, until: int, done: multiprocessing.Queue[float]) -> None:
    fleet: FleetFile = read_fleet_file(root)
    with Store(root / "fleet") as store:
        longest_s = 0.0

        def nodes() -> tuple[SeenNode, ...]:
            return ()

        daemon = Daemon(store, _NoDrivers(), nodes, lambda: fleet, time.time)
        daemon.lead("here", 1)
        done.put(0.0)
        while len(store.read().jobs) < until:
            before = time.monotonic()
            daemon.step()
            longest_s = max(longest_s, time.monotonic() - before)
            time.sleep(0.05)
        daemon.step()
        done.put(longest_s)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--by", type=int, default=4, help="processes that submit")
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        root = Path(folder)
        (root / "fleet.yaml").write_text(_FLEET)
        done: multiprocessing.Queue[float] = multiprocessing.Queue()
        many = asked.jobs // asked.by
        daemon = multiprocessing.Process(target=_leads, args=(root, many * asked.by, done))
        daemon.start()
        done.get()
        clients = [
            multiprocessing.Process(target=_submits, args=(root, at * many, many)) for at in range(asked.by)
        ]
        before = time.monotonic()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        written_s = time.monotonic() - before
        longest_s = done.get()
        seen_s = time.monotonic() - before
        daemon.join()
        total = many * asked.by
        print(
            f"{total:,} jobs by {asked.by} processes: {total / written_s:,.0f} a second on the disk, all seen"
            f" by the daemon after {seen_s:.1f} s ({total / seen_s:,.0f} a second); its longest look took"
            f" {longest_s:.2f} s"
        )
        with Store(root / "fleet") as store:
            specs = [_spec(f"k{number}") for number in range(total)]
            before = time.monotonic()
            submit(store, specs, Sender(root, str(root), "somebody"), time.time())
            took_s = time.monotonic() - before
        print(f"{total:,} jobs as one list: {total / took_s:,.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
