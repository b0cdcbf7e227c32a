"""What a suite costs, counted by a control group of the kernel: nothing that it starts can leave that."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOOK_S = 0.5
# Ray's agents go a minute after their head was killed.
LEFT_S = 75.0
ZYGOTE = "orchestrator zygote"


@dataclass(frozen=True)
class Cost:
    """Processor time of all processes, and how often what is dear was started; None where nobody counts."""

    processor_s: float | None = None
    ray_starts: int | None = None
    zygotes: int | None = None
    environments: int | None = None

    @property
    def processor(self) -> str:
        return "unknown" if self.processor_s is None else f"{self.processor_s / 60:.1f} min"

    @property
    def cells(self) -> tuple[str, ...]:
        counts = (self.ray_starts, self.zygotes, self.environments)
        return (self.processor, *("unknown" if count is None else str(count) for count in counts))

    @staticmethod
    def total(costs: Sequence[Cost]) -> Cost:
        if not costs or any(cost.processor_s is None for cost in costs):
            return Cost()
        names = ("processor_s", "ray_starts", "zygotes", "environments")
        return Cost(**{name: sum(getattr(cost, name) for cost in costs) for name in names})


class Group:
    """A control group for one suite; where the kernel lets us make none, nothing is counted."""

    def __init__(self, suite: str) -> None:
        self._folder = _make(f"orchestrator-{suite}-{os.getpid()}")
        self._seen: dict[str, set[int]] = {"ray": set(), "zygote": set(), "environment": set()}
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._count, daemon=True)
        if self._folder is not None:
            self._watch.start()

    def joining(self, command: Sequence[str]) -> list[str]:
        """The command, in this group from its first instruction on."""
        if self._folder is None:
            return list(command)
        return [
            "sh",
            "-c",
            'echo $$ > "$1" && shift && exec "$@"',
            "sh",
            str(self._folder / "cgroup.procs"),
            *command,
        ]

    def cost(self) -> Cost:
        if self._folder is None:
            return Cost()
        ray, zygotes, environments = map(len, self._seen.values())
        return Cost(_processor_s(self._folder), ray, zygotes, environments)

    def left(self) -> list[str]:
        """Processes that are still there when all should have ended long ago; they are killed then."""
        deadline_s = time.monotonic() + LEFT_S
        while (pids := self._pids()) and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
        found = [f"{pid} {_command(pid)[:150]}" for pid in pids]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    def close(self) -> None:
        self._done.set()
        if self._folder is not None:
            self._watch.join()
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def _pids(self) -> list[int]:
        if self._folder is None:
            return []
        return [int(pid) for pid in (self._folder / "cgroup.procs").read_text().split() if pid != "0"]

    def _count(self) -> None:
        while not self._done.wait(LOOK_S):
            for pid in self._pids():
                command = _command(pid)
                if "/gcs/gcs_server " in command:
                    self._seen["ray"].add(pid)
                # or a rank that it has just forked
                elif command == ZYGOTE and _command(_parent(pid)) != ZYGOTE:
                    self._seen["zygote"].add(pid)
                elif " -m venv " in command:
                    self._seen["environment"].add(pid)


def _make(name: str) -> Path | None:
    """Below the group that we are in, of the kernel's first kind or its second."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, own = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            root = Path("/sys/fs/cgroup", controllers)
        elif number == "0" and not Path("/sys/fs/cgroup/cpuacct").exists():
            root = Path("/sys/fs/cgroup")
        else:
            continue
        folder = root / own.lstrip("/") / name
        with contextlib.suppress(OSError):
            folder.mkdir()
            return folder
    return None


def _processor_s(folder: Path) -> float:
    if (folder / "cpuacct.usage").exists():
        return int((folder / "cpuacct.usage").read_text()) / 1e9
    stat = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    return int(stat["usage_usec"]) / 1e6


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
