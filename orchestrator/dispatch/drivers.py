"""Drivers of jobs as processes of this machine: started, seen, asked to stop. See `driver_files`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import papers
from orchestrator.dispatch.driver_files import DriverFiles
from orchestrator.dispatch.driver_starts import DriverStarts
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.run_looks import RunLooks
from orchestrator.dispatch.seen import Presence
from orchestrator.driver import stop_file
from orchestrator.driver.driver_host import StartedDriver
from orchestrator.errors import RunDirectoryError

MODULE = "orchestrator.cli.queued_driver"
_LONGEST_WAIT_S = 60.0
_MOST_STOP_BYTES = 1 << 16


class ProcessDrivers:
    """Implements :class:`~orchestrator.dispatch.daemon.Drivers`."""

    def __init__(
        self, run_root: Path, state_dir: Path, starts: DriverStarts, say: Callable[[str], None]
    ) -> None:
        self._run_root, self._state_dir, self._starts, self._say = run_root, state_dir, starts, say
        self._looks = RunLooks(run_root)
        self._children: dict[str, StartedDriver] = {}
        self._tries: dict[tuple[str, int], int] = {}
        self._not_before: dict[tuple[str, int], float] = {}

    def seen(self, entry: Entry) -> Presence:
        """The lock is looked at first: what a driver that is gone wrote last is read then."""
        files, name = self._files(entry), entry.job.run_name
        held, holder = files.held()
        child = self._children.get(name)
        on_its_way = child is not None and child.alive()
        return Presence(
            epoch=holder.epoch if holder is not None else None,
            pid=holder.pid if holder is not None else None,
            ended=files.end(),
            run=self._looks.look(name, entry.driver_since),
            stop_asked=self._is_asked(name),
            starting=(held or on_its_way) and holder is None,
            log=str(files.log),
        )

    def start(self, entry: Entry, node_ids: tuple[str, ...]) -> None:
        """One that ends before it has got anywhere is not started again at once."""
        of, name = (entry.key, entry.job.epoch), entry.job.run_name
        if time.monotonic() < self._not_before.get(of, 0.0):
            return
        tries = self._tries.pop(of, 0)
        self._tries[of] = tries + 1
        self._not_before[of] = time.monotonic() + min(2.0**tries, _LONGEST_WAIT_S)
        words = [str(self._run_root), str(self._state_dir), entry.key, str(entry.job.epoch)]
        log = self._files(entry).open_log()
        placement = entry.job.placement
        cwd = Path(entry.cwd) if os.path.isdir(entry.cwd) else Path.cwd()
        try:
            self._children[name] = self._starts.start(
                MODULE, words, cwd, log, placement.pool if placement else "", entry.job.spec.overrides
            )
        except OSError as error:
            self._say(f"{entry.key}: its driver could not be started ({error.strerror}); it is tried again")
        finally:
            os.close(log)

    def tidy(self) -> None:
        """Those who have ended are no children any more; what the next driver needs is made ready."""
        self._children = {name: child for name, child in self._children.items() if child.alive()}
        self._starts.make_ready()

    def ask_to_stop(self, entry: Entry) -> None:
        """One that does not look for it yet is asked with the next look."""
        with contextlib.suppress(RunDirectoryError):
            stop_file.ask(self._run_root / entry.job.run_name)

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(OSError):
            os.kill(pid, number)

    def _files(self, entry: Entry) -> DriverFiles:
        return DriverFiles(self._state_dir, entry.job.run_name)

    def _is_asked(self, name: str) -> bool:
        """Each driver empties the file when it begins to look: what stands there was said to this one."""
        try:
            return bool(papers.read_bytes(self._run_root / name / stop_file.NAME, _MOST_STOP_BYTES))
        except (OSError, ValueError):
            return False
