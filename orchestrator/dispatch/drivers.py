"""Drivers of jobs as processes of this machine: started, seen, asked to stop. See `driver_files`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from orchestrator import papers
from orchestrator.dispatch.bounded_logs import keep_bounded
from orchestrator.dispatch.driver_files import DriverFiles, DriverOrder
from orchestrator.dispatch.driver_starts import DriverStarts
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.run_looks import RunLooks
from orchestrator.dispatch.seen import Presence
from orchestrator.dispatch.start_words import start_words
from orchestrator.driver import stop_file
from orchestrator.driver.driver_host import StartedDriver
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.fleet.jobs import JobState

MODULE = "orchestrator.cli.queued_driver"
_LONGEST_WAIT_S = 60.0
_MOST_STOP_BYTES = 1 << 16
_LOGS_EVERY_S = 30.0


class ProcessDrivers:
    """Implements :class:`~orchestrator.dispatch.daemon.Drivers`. ``fleet`` is what the fleet file said when
    it could be taken last."""

    def __init__(
        self,
        run_root: Path,
        state_dir: Path,
        starts: DriverStarts,
        fleet: Callable[[], FleetFile],
        say: Callable[[str], None],
    ) -> None:
        self._run_root, self._state_dir = run_root, state_dir
        self._starts, self._fleet, self._say = starts, fleet, say
        self._looks = RunLooks(run_root)
        # The newest of each run that we have started, and for which epoch, also once it is gone.
        self._children: dict[str, tuple[int, StartedDriver]] = {}
        self._tries: dict[str, tuple[int, int]] = {}  # of the start of an epoch
        self._not_before: dict[str, float] = {}
        self._asked_since: dict[str, float] = {}
        self._before: dict[str, tuple[int, int | None]] = {}  # of the driver of an epoch
        self._logs_at = 0.0

    def seen(self, entry: Entry) -> Presence:
        """The process is looked at first, the lock then: what one that is gone wrote last is read after
        that."""
        files, name, epoch = self._files(entry), entry.job.run_name, entry.job.epoch
        of, child = self._children.get(name, (0, None))
        on_its_way = child is not None and child.alive()
        held, holder = files.held()
        ended = files.end()
        is_ours = child is not None and of == epoch
        said_how = ended is not None and ended.epoch == epoch
        return Presence(
            epoch=holder.epoch if holder is not None else None,
            pid=holder.pid if holder is not None else None,
            ended=ended,
            run=self._looks.look(name, entry.driver_since, self._said_before(entry)),
            stop_asked=(asked_s := self._asked_s(name)) is not None,
            asked_s=asked_s or 0.0,
            starting=on_its_way and holder is None,
            held=held,
            died=is_ours and not (on_its_way or held or said_how),
            log=str(files.log),
        )

    def start(self, entry: Entry, node_ids: tuple[str, ...]) -> str | None:
        """One that ends before it has got anywhere is not started again at once. Returns why it cannot be
        started until somebody has mended something."""
        name, epoch = entry.job.run_name, entry.job.epoch
        if time.monotonic() < self._not_before.get(name, 0.0):
            return None
        files = self._files(entry)
        try:
            if (why := _why_no_folder(entry.key, entry.cwd)) is not None:
                return why
            order = self._order(entry, node_ids)
        except ConfigError as error:
            return str(error)
        of, tries = self._tries.get(name, (epoch, 0))
        tries = tries if of == epoch else 0
        self._tries[name] = epoch, tries + 1
        wait_s = min(2.0 ** min(tries + entry.losses, 30), _LONGEST_WAIT_S)
        self._not_before[name] = time.monotonic() + wait_s
        words = [str(self._state_dir), entry.key, str(epoch)]
        files.write_order(order)
        self._before[name] = epoch, order.journal_bytes
        placement = entry.job.placement
        log = files.open_log()
        try:
            child = self._starts.start(
                MODULE, words, Path(entry.cwd), log, placement.pool if placement else "",
                entry.job.spec.overrides,
            )  # fmt: skip
            self._children[name] = epoch, child
        except OSError as error:
            self._say(f"{entry.key}: its driver could not be started ({error.strerror}); it is tried again")
        finally:
            os.close(log)
        return None

    def tidy(self, live: Collection[str]) -> None:
        """What is kept of runs that are not among the ``live`` ones is forgotten, logs are kept bounded, and
        what the next driver needs is made ready."""
        self._children = {
            name: started for name, started in self._children.items() if started[1].alive() or name in live
        }
        for name in self._not_before.keys() - set(live):
            self._tries.pop(name, None)
            self._not_before.pop(name)
        self._asked_since = {name: at for name, at in self._asked_since.items() if name in live}
        self._before = {name: before for name, before in self._before.items() if name in live}
        self._looks.keep(live)
        if time.monotonic() >= self._logs_at:
            self._logs_at = time.monotonic() + _LOGS_EVERY_S
            for name in self._children:
                keep_bounded(DriverFiles(self._state_dir, name).log)
        self._starts.make_ready()

    def ask_to_stop(self, entry: Entry) -> None:
        """One that does not look for it yet is asked with the next look."""
        with contextlib.suppress(RunDirectoryError):
            stop_file.ask(self._run_root / entry.job.run_name)

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(OSError):
            os.kill(pid, number)

    def _order(self, entry: Entry, node_ids: tuple[str, ...]) -> DriverOrder:
        placement = entry.job.placement
        assert placement is not None, "what starts has a placement"
        there = self._fleet().pool(placement.pool)
        words = start_words(entry, there, node_ids, self._run_root)
        before = self._looks.bytes_now(entry.job.run_name)
        return DriverOrder(entry.job.epoch, words, there.token_file, before)

    def _files(self, entry: Entry) -> DriverFiles:
        return DriverFiles(self._state_dir, entry.job.run_name)

    def _said_before(self, entry: Entry) -> int | None:
        """How much of the journal is of drivers before this one; None where no daemon of this version has
        started it, or it is to be started yet."""
        name, epoch = entry.job.run_name, entry.job.epoch
        of, before = self._before.get(name, (0, None))
        if of != epoch:
            order = self._files(entry).order(epoch)
            before = order.journal_bytes if order is not None else None
            if order is not None or entry.job.state is not JobState.STARTING:
                self._before[name] = epoch, before
        return before

    def _asked_s(self, name: str) -> float | None:
        """For how long it has been asked to stop, as far as we have seen; None where it is not asked."""
        if not self._is_asked(name):
            self._asked_since.pop(name, None)
            return None
        now = time.monotonic()
        return now - self._asked_since.setdefault(name, now)

    def _is_asked(self, name: str) -> bool:
        """Each driver empties the file when it begins to look: what stands there was said to this one."""
        try:
            return bool(papers.read_bytes(self._run_root / name / stop_file.NAME, _MOST_STOP_BYTES))
        except (OSError, ValueError):
            return False


def _why_no_folder(key: str, cwd: str) -> str | None:
    """Why no driver can work in the folder where its job was submitted, and never elsewhere: paths among its
    words would mean other files. None where one can, or where the disk does not answer at the moment."""
    try:
        os.stat(os.path.join(cwd, "."))
        return None
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        return (
            f"{cwd}, where it was submitted, cannot be entered ({error.strerror}); make it again and let the"
            f" job go on with 'hold {key} --off', or submit it anew from another folder"
        )
    except OSError:
        return None
