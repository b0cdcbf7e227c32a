"""The warm zygotes of one node, kept for whichever run comes next, and the slots that runs have parked there.

Written without Ray, as the agent is; ``cluster/warm/pool.py`` makes it an actor.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import psutil

from orchestrator.agent import zygote_folder
from orchestrator.agent.parking_lot import ParkedReport
from orchestrator.agent.parking_server import Parking
from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import DEFAULT_PRELOAD, ZygoteLauncher, listening_zygote
from orchestrator.rank.launch.preload import of_script
from orchestrator.rank.launch.zygote_key import ZygoteKey

# More than this and the one that has been idle longest goes: each holds some hundred megabytes.
MOST_ZYGOTES = 4
_LONGEST_TICK_S = 5.0


@dataclass(frozen=True)
class ZygoteLease:
    """A zygote that fits a job. ``difference`` is why one that was warm already did not, in words;
    ``parking`` is the address at which its owner parks slots, "" where it does not."""

    address: str
    key: ZygoteKey
    ready: bool
    difference: tuple[str, ...] = ()
    parking: str = ""


class ZygoteReport(TypedDict):
    """One warm zygote, as those are told who look at the cluster."""

    pid: int  # of its process
    state: str  # `importing`, `ready` or `in use`
    launchers: int  # agents that are connected to it
    ranks: int  # forked from it and alive
    runs: int  # that it has served
    idle_s: float  # since it was used; 0 while it is
    rss_bytes: int  # of its process in memory; 0 where it has just ended
    environment: dict[str, str]  # variables that were set when it imported, and that a run must share


@dataclass
class _Held:
    launcher: ZygoteLauncher
    address: str
    used_s: float
    runs: int = 0

    def fits(self, wanted: ZygoteKey, environment: Mapping[str, str]) -> bool:
        """For one that still imports: as far as is known by now."""
        return not (self.launcher.key.difference(wanted) or self.launcher.preloaded.unlike(environment))


class NodeZygotes:
    """Starts zygotes, lends them to agents, and ends those that nobody used for ``idle_timeout_s``.

    ``retire`` is called once, from a thread of its own, when none is left.
    """

    def __init__(
        self,
        idle_timeout_s: float,
        retire: Callable[[], None] = lambda: None,
        preload: Sequence[str] = DEFAULT_PRELOAD,
    ) -> None:
        self.idle_timeout_s = idle_timeout_s
        self._preload = tuple(preload)
        self._retire = retire
        self._held: list[_Held] = []
        self._count = 0
        self._asked_s = time.monotonic()
        self._folder = zygote_folder.make()
        self._parking = Parking(self._folder)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="idle zygotes", daemon=True).start()

    def offer(
        self, wanted: ZygoteKey, environment: Mapping[str, str], use: bool = True
    ) -> ZygoteLease | None:
        """A zygote with the key ``wanted``; started from ``environment`` when none is warm, and then still
        importing.

        None when one started here could never fit: its interpreter or packages are others.
        """
        with self._lock:
            self._drop_dead()
            self._asked_s = time.monotonic()
            fitting = next((held for held in self._held if held.fits(wanted, environment)), None)
            difference: list[str] = []
            if fitting is None:
                difference = self._difference(wanted, environment)
                preload = (*self._preload, *of_script(wanted.imports))
                if ZygoteKey.of(environment, preload).difference(wanted):
                    return None
                fitting = self._start(environment, preload)
            fitting.used_s = time.monotonic()
            fitting.runs += use
            return ZygoteLease(
                fitting.address,
                fitting.launcher.key,
                fitting.launcher.ready,
                tuple(difference),
                self._parking.address,
            )

    def wait_ready(self, timeout_s: float) -> list[str]:
        """Wait until every zygote has imported; what went wrong with those that have not, in words."""
        deadline_s = time.monotonic() + timeout_s
        problems: list[str] = []
        while True:
            with self._lock:  # never held for long: a run may ask meanwhile
                problems += self._drop_dead()
                importing = [held.launcher.pid for held in self._held if not held.launcher.ready]
            if not importing:
                return problems
            if time.monotonic() >= deadline_s:
                return [*problems, f"process {importing[0]} still imports after {timeout_s:g} s"]
            time.sleep(0.05)

    def report(self) -> list[ZygoteReport]:
        """One entry per zygote."""
        with self._lock:
            self._drop_dead()
            return [self._describe(held) for held in self._held]

    def parked(self) -> list[ParkedReport]:
        """What runs have parked here."""
        return self._parking.report()

    def close(self) -> None:
        """End every zygote and the ranks forked from them; let go of parked slots; leave no file."""
        self._closed.set()
        self._parking.close()
        with self._lock:
            for held in self._held:
                held.launcher.close()
            self._held = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, environment: Mapping[str, str], preload: Sequence[str]) -> _Held:
        while len(self._held) >= MOST_ZYGOTES and (idle := self._idle()):
            self._end(min(idle, key=lambda held: held.used_s))
        self._count += 1
        log_path = str(self._folder / f"{self._count}.log")
        launcher, address = listening_zygote(environment, preload, log_path)
        self._held.append(_Held(launcher, address, time.monotonic()))
        return self._held[-1]

    def _difference(self, wanted: ZygoteKey, environment: Mapping[str, str]) -> list[str]:
        """Why the newest does not fit; that a script's libraries are not there yet is as it has to be."""
        if not self._held:
            return []
        launcher = self._held[-1].launcher
        if launcher.key.imports != wanted.imports:
            return replace(launcher.key, imports=wanted.imports, sources=wanted.sources).difference(
                replace(wanted, packages=launcher.key.packages)
            )
        others = ", ".join(launcher.preloaded.unlike(environment))
        return launcher.key.difference(wanted) or [f"{others}: another in the zygote than in the job"]

    def _describe(self, held: _Held) -> ZygoteReport:
        launchers, ranks = self._usage(held)
        rss_bytes = 0
        with contextlib.suppress(psutil.Error):
            rss_bytes = psutil.Process(held.launcher.pid).memory_info().rss
        return {
            "pid": held.launcher.pid,
            "state": "in use" if launchers else "ready" if held.launcher.ready else "importing",
            "launchers": launchers,
            "ranks": ranks,
            "runs": held.runs,
            "idle_s": 0.0 if launchers else time.monotonic() - held.used_s,
            "rss_bytes": rss_bytes,
            "environment": dict(held.launcher.key.environment),
        }

    def _usage(self, held: _Held) -> tuple[int, int]:
        """Launchers and ranks; one that still imports has neither, and cannot be asked."""
        if not held.launcher.alive() or not held.launcher.ready:
            return 0, 0
        try:
            return held.launcher.usage()
        except RankStartError:
            return 0, 0

    def _idle(self) -> list[_Held]:
        return [held for held in self._held if not self._usage(held)[0]]

    def _drop_dead(self) -> list[str]:
        """Forget zygotes that have ended; how each did, in words."""
        reasons = []
        for held in list(self._held):
            try:
                reason = None if held.launcher.alive() else held.launcher.exit_reason
            except RankStartError as error:  # a module could not be imported
                reason = str(error)
            if reason is not None:
                reasons.append(reason)
                self._end(held)
        return reasons

    def _end(self, held: _Held) -> None:
        self._held.remove(held)
        held.launcher.close()

    def _watch(self) -> None:
        """Look every so often for zygotes that nobody uses any more."""
        while not self._closed.wait(min(_LONGEST_TICK_S, self.idle_timeout_s / 4)):
            if not self.tick(time.monotonic()):
                self.close()
                self._retire()
                return

    def tick(self, now_s: float) -> bool:
        """End what has been idle too long; False when nothing is left, parked slots included, and nobody
        asked for a while."""
        with self._lock:
            self._drop_dead()
            for held in list(self._held):
                # One that still imports cannot be asked; somebody may wait for it.
                if self._usage(held)[0] or not held.launcher.ready:
                    held.used_s = now_s
                elif now_s - held.used_s >= self.idle_timeout_s:
                    self._end(held)
            recently = now_s - self._asked_s < self.idle_timeout_s
            return bool(self._held) or recently or self._parking.holds_for_later()
