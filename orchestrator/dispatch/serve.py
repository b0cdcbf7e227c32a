"""The daemon's process: one leads on a run root; it outlives Ray, and holds no connection to it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from orchestrator import papers
from orchestrator.dispatch.bounded_logs import keep_bounded
from orchestrator.dispatch.clusters_reader import ClustersReader
from orchestrator.dispatch.collecting import collect_seldom
from orchestrator.dispatch.daemon import Daemon
from orchestrator.dispatch.driver_starts import DriverStarts
from orchestrator.dispatch.drivers import ProcessDrivers
from orchestrator.dispatch.fleet_file import NAME, FleetFile, read_fleet_file
from orchestrator.dispatch.locks import is_held, taken
from orchestrator.dispatch.noted_nodes import NotedNodes
from orchestrator.dispatch.queue_gauges import queue_values, write_gauges
from orchestrator.dispatch.queue_place import claim, fleet_here
from orchestrator.dispatch.seen_file import EVERY_S, write_seen
from orchestrator.dispatch.store import Deposed, Store
from orchestrator.dispatch.wake import Alarm
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.files import make_folder, open_no_link

LOCK, LOG = "daemon.lock", "daemon.log"
LOOK_S = 0.25
# At those who are to leave, while there are any.
_LEAVING_LOOK_S = 0.05
_AGAIN_S = 5.0
_MOST_LOCK_BYTES = 64
_BEGIN_S = 20.0

Say = Callable[[str], None]


def serve(run_root: Path, say: Say, over: threading.Event) -> None:
    """Lead until ``over``. Runs go on without it, and the next daemon finds them.

    Raises :class:`ConfigError` where another daemon leads or the queue is elsewhere, and
    :class:`~orchestrator.dispatch.store.Deposed` where one has taken over.
    """
    fleet = fleet_here(run_root)
    collect_seldom()
    with ExitStack() as stack:
        stack.enter_context(_alone(fleet.state_dir))
        claim(run_root, fleet)
        store = stack.enter_context(Store(fleet.state_dir))
        files = FleetFileReader(run_root, fleet)
        reader = ClustersReader(lambda: files.taken.clusters, fleet.state_dir)
        stack.callback(reader.close)
        starts = DriverStarts(reader.home, lambda: files.taken.home_pools)
        stack.callback(starts.close)
        alarm = Alarm(fleet.state_dir)
        stack.callback(alarm.close)
        drivers = ProcessDrivers(run_root, fleet.state_dir, starts, lambda: files.taken, say)
        noted = NotedNodes(run_root, reader.nodes, say)
        daemon = Daemon(store, drivers, noted.nodes, files.read, time.time, say, unknown=reader.unknown)
        daemon.lead(platform.node(), os.getpid())
        jobs = len(store.read().live())
        say(f"leads the queue of {run_root} with epoch {daemon.epoch}: {jobs} jobs that have not ended")
        told_at = 0.0
        while not over.is_set():
            try:
                daemon.step()
                drivers.tidy({entry.job.run_name for entry in store.read().live()})
                if time.monotonic() - told_at > EVERY_S:
                    told_at = time.monotonic()
                    _tell(daemon, noted, reader.home(), fleet)
                    daemon.forget_moments()
                    keep_bounded(fleet.state_dir / LOG)
                _wait(daemon, alarm, over)
            except Deposed:
                raise
            except RunDirectoryError as error:  # a disk that is full, say: it may have room again
                say(f"{error}; it is tried again")
                over.wait(_AGAIN_S)
            except OSError as error:  # of a file beside the database: the same holds
                say(f"{error.filename}: {error.strerror}; it is tried again")
                over.wait(_AGAIN_S)


def _wait(daemon: Daemon, alarm: Alarm, over: threading.Event) -> None:
    """Until it is time for the next look at everything: after a while, once somebody calls, or at once where
    somebody has left whom others wait for."""
    until_s = time.monotonic() + LOOK_S
    while not over.is_set() and (left_s := until_s - time.monotonic()) > 0:
        leaves = daemon.somebody_leaves
        if alarm.wait(min(left_s, _LEAVING_LOOK_S) if leaves else left_s):
            return
        if leaves and daemon.mind_leaving():
            return


def _tell(daemon: Daemon, noted: NotedNodes, home: str | None, fleet: FleetFile) -> None:
    """Whoever asks how the queue stands, and whoever watches it. On loopback alone they get names unasked."""
    nodes, now, current = noted.nodes(), time.time(), daemon.fleet or fleet
    named = current.metrics_names or (home or "").startswith("127.")
    values = queue_values(daemon.store.read(), current, nodes, now, named)
    with suppress(OSError):  # of a disk that is full: what they find has a time, and is too old for them
        write_seen(fleet.state_dir, nodes, now)
        write_gauges(fleet.state_dir, values, now)


class FleetFileReader:
    """Reads the fleet file anew where it has been touched."""

    def __init__(self, run_root: Path, fleet: FleetFile) -> None:
        self._run_root, self._fleet = run_root, fleet
        self._stamp = self._stamp_now()

    @property
    def taken(self) -> FleetFile:
        """What counts: what it said when it could be taken last."""
        return self._fleet

    def read(self) -> FleetFile:
        """What it says now; the folder of the queue stays where it was."""
        stamp = self._stamp_now()
        if stamp != self._stamp or stamp is None:
            fleet = read_fleet_file(self._run_root)
            if fleet.state_dir != self._fleet.state_dir:
                raise ConfigError(
                    f"{fleet.path}: state_dir is read when the daemon starts; start it again to change it"
                )
            self._fleet, self._stamp = fleet, stamp
        return self._fleet

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            seen = (self._run_root / NAME).stat()
            return seen.st_mtime_ns, seen.st_size, seen.st_ino
        except OSError:
            return None


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    try:
        lock = _lock(state_dir)
    except OSError as error:
        raise RunDirectoryError(
            f"{state_dir / LOCK}: {error.strerror}; no daemon leads: mend that, and type 'orchestrator"
            " dispatch' again"
        ) from None
    with lock:
        yield


def _lock(state_dir: Path) -> IO[str]:
    make_folder(state_dir)
    lock = open_no_link(state_dir / LOCK, "a+")
    try:
        if not taken(lock):
            lock.seek(0)
            holder = lock.read(_MOST_LOCK_BYTES).strip() or "unknown"
            raise ConfigError(
                f"{state_dir}: a daemon leads this queue already (process {holder}); one leads on a run root:"
                " leave it, or end it with 'orchestrator dispatch --stop'"
            )
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    except BaseException:
        with suppress(OSError):  # what could not be written is tried once more at the end
            lock.close()
        raise
    return lock


def daemon_pid(state_dir: Path) -> int | None:
    """The process of the daemon that leads; None where there is none."""
    try:
        lock = papers.open_plain(state_dir / LOCK)
    except (OSError, papers.PaperError):
        return None
    with lock:
        if not is_held(lock):
            return None
        text = lock.read(_MOST_LOCK_BYTES).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None


def start_daemon(run_root: Path) -> int | None:
    """Start one in the background unless one leads; returns its process once it does, None where it does not.

    Raises :class:`ConfigError` for a fleet file that cannot be taken.
    """
    fleet = fleet_here(run_root)
    make_folder(fleet.state_dir)
    if (leads := daemon_pid(fleet.state_dir)) is not None:
        return leads
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(fleet.state_dir / LOG, flags, 0o600)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "dispatch", f"run_root={run_root}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    deadline_s = time.monotonic() + _BEGIN_S
    while time.monotonic() < deadline_s and child.poll() is None:
        if (leads := daemon_pid(fleet.state_dir)) is not None:
            return leads
        time.sleep(0.05)
    return None
