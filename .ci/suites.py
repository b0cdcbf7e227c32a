"""All suites beside each other, since most of them mostly wait: each with a home and a log of its own.

Goes on after a suite that fails. In the end it says of each what it took and which tests have failed, and
exits with 1 if any has.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from costs import Cost, Group

ROOT = Path(__file__).resolve().parents[1]
# By the names of their make targets; `make test` is lint, unit and test-real. Those that take longest begin
# first.
SUITES = ("test-faults", "test-hosts", "lint", "test-real", "unit", "test-package")
# More at once, and on two cores they disturb each other more than they wait.
AT_ONCE = 3
# On a machine of half the usual speed the longest takes an hour.
TIMEOUT_S = 4800.0
MORE = {"PYTEST_ADDOPTS": "--durations=12", "ORCHESTRATOR_REQUIRE_HOSTS": "1"}
# After Ctrl-C a suite ends the clusters that it has started.
GRACE_S = 120.0


@dataclass(frozen=True)
class Ended:
    """A suite's end; ``log`` is all that it has printed."""

    suite: str
    code: int
    wall_s: float
    cost: Cost
    log: str

    @property
    def failed(self) -> set[str]:
        """Tests, by the summary that pytest prints."""
        return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", self.log, re.MULTILINE))

    @property
    def heading(self) -> str:
        how = "passed" if self.code == 0 else f"FAILED with exit code {self.code}"
        return f"{self.suite}: {how} after {minutes(self.wall_s)}, processor time {self.cost.processor}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="*", help=f"all by default: {', '.join(SUITES)}")
    parser.add_argument(
        "--times", type=int, default=1, help="run each so often, to find tests that fail sometimes"
    )
    parser.add_argument("--busy", type=int, default=0, help="so many neighbours that compute all the time")
    asked = parser.parse_args()
    if strange := sorted(set(asked.suite) - set(SUITES)):
        parser.error(f"no such suite: {', '.join(strange)}; there are {', '.join(SUITES)}")
    suites = [suite for suite in SUITES if suite in asked.suite or not asked.suite] * asked.times
    # A shell that starts this in the background has us ignore it, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun_s = time.monotonic()
    print(
        f"{len(suites)} suites, up to {AT_ONCE} beside each other; each tells of itself when it ends",
        flush=True,
    )
    with neighbours(asked.busy):
        ended = run_all(suites)
    print(table(ended, time.monotonic() - begun_s), flush=True)
    for test, times in Counter(test for one in ended for test in one.failed).most_common():
        print(f"failed {times} times of {asked.times}: {test}")
    return 1 if any(one.code for one in ended) else 0


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that leave the machine no idle moment."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def run_all(suites: Sequence[str]) -> list[Ended]:
    with (
        tempfile.TemporaryDirectory(prefix="orchestrator-suites-") as folder,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        running = [pool.submit(run, suite, Path(folder, f"{suite}-{n}")) for n, suite in enumerate(suites)]
        try:
            return [one.result() for one in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_running.values()):
                tell(process, signal.SIGINT)
            raise


_running: dict[str, subprocess.Popen[bytes]] = {}


def run(suite: str, folder: Path) -> Ended:
    """Run one suite to its end and print what it printed: of one that passed the end, of one that failed
    all."""
    folder.mkdir()
    log, begun_s = folder / "log", time.monotonic()
    with ExitStack() as stack:
        # Each pytest removes what those before it left below one root: two at once would find it gone, or not
        # empty. The unit tests keep the usual one: some make sockets below it, whose paths may not be long.
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True))
        group, output = stack.enter_context(closing(Group(folder.name))), stack.enter_context(log.open("wb"))
        process = _running[folder.name] = subprocess.Popen(
            group.joining(["make", "--no-print-directory", suite]),
            cwd=ROOT, env=environment(folder / "home", "" if suite == "unit" else temporary),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            output.write(f"\nthe suite was ended after {minutes(TIMEOUT_S)}\n".encode())
            code = end(process)
        del _running[folder.name]
        wall_s = time.monotonic() - begun_s
        if left := group.left():
            output.write("\n".join(["", "processes that the suite has left behind:", *left, ""]).encode())
            code = code or 1
        cost = group.cost()
    one = Ended(suite, code, wall_s, cost, log.read_text(errors="replace"))
    shown = one.log.splitlines() if code else one.log.splitlines()[-24:]
    print("\n".join(["", f"== {one.heading}", *shown]), flush=True)
    return one


def environment(home: Path, temporary: str) -> dict[str, str]:
    """Ours, with an empty home and a folder for pytest's temporary ones; what pip has fetched is used
    again."""
    home.mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "RAY_", "MLFLOW_"))
    }
    cache = os.environ.get("PIP_CACHE_DIR") or str(Path.home() / ".cache" / "pip")
    own = {"PYTEST_DEBUG_TEMPROOT": temporary} if temporary else {}
    return {**kept, "HOME": str(home), **own, "PIP_CACHE_DIR": cache, **MORE}


def end(process: subprocess.Popen[bytes]) -> int:
    """As Ctrl-C would, so that it cleans up; its exit code."""
    tell(process, signal.SIGINT)
    try:
        return process.wait(GRACE_S) or 1
    except subprocess.TimeoutExpired:
        tell(process, signal.SIGKILL)
        return process.wait()


def tell(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def table(ended: Sequence[Ended], wall_s: float) -> str:
    """What each suite took, and all of them; a Markdown table, as CONTRIBUTING.md has it."""
    rows = [("suite", "result", "wall", "processor", "Ray starts", "zygotes", "environments")]
    for one in ended:
        rows.append(
            (one.suite, "passed" if one.code == 0 else "FAILED", minutes(one.wall_s), *one.cost.cells)
        )
    total = Cost.total([one.cost for one in ended])
    rows.append(("all", f"{sum(one.code == 0 for one in ended)} passed", minutes(wall_s), *total.cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(["", *lines])


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


if __name__ == "__main__":
    sys.exit(main())
