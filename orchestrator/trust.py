"""Whether a folder is ours: nobody but our user and root can have put there what we are about to believe."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.users import known_name, user_with_number

_ROOT = 0


def check_ours(path: Path, what: str) -> None:
    """Refuse what somebody else owns, or may exchange: raises :class:`ConfigError` with the reason and the
    remedy.

    A folder on the way to it may be root's, and may be open to everybody where each can remove only what is
    theirs (the sticky bit, as ``/tmp`` has it). Links are followed, and where they lie is looked at too.
    """
    if (reason := why_not_ours(path)) is not None:
        remedy = "mend that, or give --trust if you know who wrote it"
        raise ConfigError(f"{path}: {what} is taken from nobody else, and {reason}; {remedy}")


def check_nobody_elses(path: Path) -> None:
    """Refuse to begin in a folder that somebody else has made before us, or in which everybody may put files:
    raises :class:`ConfigError`. How our own is shared with a group is our user's choice; one that is not
    there is nobody's.
    """
    if not os.path.lexists(path):
        return
    reason = whose(path)
    if reason is None and path.is_dir() and path.stat().st_mode & stat.S_IWOTH:
        reason = f"{path} may be written by everybody"
    if reason is not None:
        raise ConfigError(
            f"{path}: a run begins in nobody else's folder, and {reason}; choose another run_name or run_dir,"
            " or give --trust if you know who made it"
        )


def whose(path: Path) -> str | None:
    """To whom a file or folder belongs if it is neither ours nor root's, wherever it lies; None where it
    is."""
    for place in dict.fromkeys((path, path.resolve())):
        try:
            uid = place.lstat().st_uid
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        if uid not in _our_users(itself=True):
            return f"{place} belongs to {user_with_number(uid)}"
    return None


def why_not_ours(path: Path) -> str | None:
    """Which folder of a path others own or may write to, and who; None where there is none."""
    for place in _places(path):
        try:
            seen = place.lstat()
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        # Nobody writes to a link: who may replace it follows from its folder.
        mode = 0 if stat.S_ISLNK(seen.st_mode) else seen.st_mode
        itself = place in (path, path.resolve())
        if seen.st_uid not in _our_users(itself):
            return f"{place} belongs to {user_with_number(seen.st_uid)}"
        if mode & stat.S_ISVTX and not itself:
            continue
        if mode & stat.S_IWOTH:
            return f"{place} may be written by everybody"
        if mode & stat.S_IWGRP and not _is_nobody_elses(seen.st_gid):
            return f"{place} may be written by the group {_group(seen.st_gid)}"
    return None


def _places(path: Path) -> Iterator[Path]:
    """The path as it is written and as it leads, from the root on."""
    yielded: set[Path] = set()
    for way in (Path(os.path.abspath(path)), path.resolve()):
        for place in [*reversed(way.parents), way]:
            if place not in yielded:
                yielded.add(place)
                yield place


def _our_users(itself: bool) -> set[int]:
    """Where a container knows of no other user, all the host's users, root too, have the number of nobody."""
    return {os.geteuid(), _ROOT} | (set() if itself else _unmapped())


def _unmapped() -> set[int]:
    try:
        whole = any(
            int(line.split()[2]) > 1 << 31 for line in Path("/proc/self/uid_map").read_text().splitlines()
        )
        return set() if whole else {int(Path("/proc/sys/kernel/overflowuid").read_text())}
    except (OSError, ValueError, IndexError):
        return set()


def _is_nobody_elses(gid: int) -> bool:
    """Root's group, which a user without a name has in a container, or one of our user's alone, as many
    systems make them: it bears the user's name and has no other member."""
    if gid == _ROOT:
        return True
    try:
        group, user = grp.getgrgid(gid), known_name(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"of gid {gid}"
