"""Where the queue of a run root is: on one machine, in one folder, of one account.

::

    RUN_ROOT/.fleet-place.json   {queue, host, state_dir}: which queue it is, and where it was last
    STATE_DIR/queue.id           the same name of it

A run root may be seen from many machines, the queue's folder from one: whoever finds another folder there
than the one that was written down would begin an empty queue beside the one that has the jobs. So he is
refused, and told where that one is.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator import papers
from orchestrator.dispatch.fleet_file import FleetFile, read_fleet_file
from orchestrator.dispatch.store import NAME as DATABASE
from orchestrator.dispatch.store import Store
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.files import atomic_write, make_folder
from orchestrator.text import plural
from orchestrator.users import known_name, user_with_number

NAME, ID = ".fleet-place.json", "queue.id"
_MOST_BYTES = 4096


class NotHere(ConfigError):
    """The queue of this run root is another account's, or lies on another machine or in another folder."""


@dataclass(frozen=True)
class Place:
    """Where a queue was last. ``state_dir`` is below the run root where it begins with no slash."""

    queue: str
    host: str
    state_dir: str


def fleet_here(run_root: Path) -> FleetFile:
    """The fleet file of a run root whose queue is here, or nowhere yet.

    Raises :class:`NotHere`, and :class:`ConfigError` for a file that cannot be taken.
    """
    fleet = read_fleet_file(run_root)
    _check_account(run_root, fleet.state_dir)
    _check_place(run_root, fleet)
    return fleet


def claim(run_root: Path, fleet: FleetFile) -> None:
    """Have it on record that the queue is here, before anything is written into it.

    Raises :class:`NotHere` where another was quicker, elsewhere.
    """
    _check_place(run_root, fleet)
    path = run_root / NAME
    try:
        before = _place_in(path)
        own = _id_in(fleet.state_dir) or _new_id(fleet.state_dir)
        place = Place(own, platform.node(), _told(run_root, fleet.state_dir))
        if before is None:
            _write_once(path, place)
        elif before != place:
            atomic_write(path, _text(place))
    except OSError as error:
        of_folder = str(error.filename).startswith(str(fleet.state_dir))
        raise RunDirectoryError(
            f"{fleet.state_dir if of_folder else run_root}: {error.strerror}; nothing was written, mend that"
            " and type it again"
        ) from None
    _check_place(run_root, fleet)


def _check_account(run_root: Path, state_dir: Path) -> None:
    """Its files are open to their owner alone, root's would be closed to him."""
    owner = _owner(state_dir)
    if owner is None or owner == os.geteuid():
        return
    name = known_name(owner) or f"'#{owner}'"
    raise NotHere(
        f"{run_root}: its queue is of one account, {user_with_number(owner)}, and you are"
        f" {user_with_number(os.geteuid())}; have that account type it ('sudo -u {name} orchestrator …'), or"
        " give yourself a queue with another run_root"
    )


def _owner(state_dir: Path) -> int | None:
    """Of the database; where that cannot be looked at, of the folder that is closed. None: there is none."""
    closed = False
    for place in (state_dir / DATABASE, state_dir, *state_dir.parents):
        try:
            seen = place.stat()
        except PermissionError:
            closed = True
            continue
        except OSError:
            return None
        return seen.st_uid if closed or place.name == DATABASE else None
    return None


def _check_place(run_root: Path, fleet: FleetFile) -> None:
    before = _place_in(run_root / NAME)
    if before is None or before.queue == _id_in(fleet.state_dir) or _may_begin(run_root, fleet, before):
        return
    record, was = run_root / NAME, run_root / before.state_dir
    anew = f"remove {record} to begin with an empty queue here"
    if before.host == platform.node():
        raise NotHere(
            f"{fleet.path}: state_dir: the queue was in {was}, which is not there any more; set state_dir to"
            f" where it is now, or {anew}"
        )
    raise NotHere(
        f"{run_root}: its queue is on {before.host}, in {was}, and not on {platform.node()}, in"
        f" {fleet.state_dir}; type it on {before.host}, or if that machine is gone, {anew}"
    )


def _may_begin(run_root: Path, fleet: FleetFile, before: Place) -> bool:
    """Whether nothing is lost by a queue elsewhere than before: its folder can be seen from here, and has no
    job that has not ended. Raises :class:`NotHere` where it has."""
    was = run_root / before.state_dir
    if (there := _id_in(was)) != before.queue:
        return there is None and _is_seen_by_all(run_root, was)
    with Store(was) as store:
        live = len(store.read().live())
    if live:
        raise NotHere(
            f"{fleet.path}: state_dir: is {fleet.state_dir} now, and {plural(live, 'job')} that"
            f" {'has' if live == 1 else 'have'} not ended {'is' if live == 1 else 'are'} in {was}; set it"
            f" back, or end the daemon, move the folder there ('mv {was} {fleet.state_dir}') and start the"
            " daemon again"
        )
    return True


def _is_seen_by_all(run_root: Path, was: Path) -> bool:
    """Whether whoever sees the run root sees that folder, or that it was removed: one below it, on which no
    disk of this machine is mounted."""
    if not was.is_relative_to(run_root):
        return False
    try:
        return was.stat().st_dev == run_root.stat().st_dev
    except FileNotFoundError:
        return True


def _place_in(path: Path) -> Place | None:
    try:
        return papers.made(Place, papers.read_object(path, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{path}: {said}; it says where the queue is: remove it on the machine that has the queue"
        ) from None


def _id_in(state_dir: Path) -> str | None:
    try:
        return papers.read_bytes(state_dir / ID, _MOST_BYTES).decode(errors="replace").strip() or None
    except (OSError, ValueError):
        return None


def _new_id(state_dir: Path) -> str:
    """Of two who make one at once both have the same."""
    make_folder(state_dir)
    _link(state_dir / ID, f"{secrets.token_hex(16)}\n", 0o600)
    found = _id_in(state_dir)
    if found is None:
        raise RunDirectoryError(f"{state_dir / ID}: cannot be read; mend that and type it again")
    return found


def _write_once(path: Path, place: Place) -> None:
    _link(path, _text(place), 0o644)


def _link(path: Path, content: str, mode: int) -> None:
    """Write a file whole, unless there is one of that name: also where two machines write."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    atomic_write(partial, content, mode)
    try:
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _text(place: Place) -> str:
    return json.dumps({"queue": place.queue, "host": place.host, "state_dir": place.state_dir}) + "\n"


def _told(run_root: Path, state_dir: Path) -> str:
    """Below the run root as it is seen from everywhere."""
    folder, root = state_dir.resolve(), run_root.resolve()
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
