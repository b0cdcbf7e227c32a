"""What libraries take for granted of the surroundings that they are started in, and that need not be
there."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

# Python's multiprocessing, which Ray uses as well, puts sockets there: 32 bytes on top, of 107 that Linux
# takes.
LONGEST_TMPDIR_BYTES = 75
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def settle() -> None:
    """Call once, in a program that is all ours, before anything heavy is imported.

    MLflow cannot be imported where nothing says what the home is, and torch compiles for DeepSpeed below
    ``~/.cache``. Where there is no home, or it cannot be written, a folder of our own takes its place.
    """
    home, place = _home(), None
    if home is None or (home == Path("/") and not _writable(home)):
        place = _own_folder()
        os.environ["HOME"] = str(place or "/")
        why = "no home" if home is None else f"HOME={home} cannot be written"
    elif not os.environ.get("XDG_CACHE_HOME") and not _writable(home / ".cache", home):
        place = _own_folder()
        why = f"HOME={home} cannot be written"
        if place is not None:
            os.environ["XDG_CACHE_HOME"] = str(place / ".cache")
    if place is not None:
        _say(
            f"{why}; {place} is used for caches"
            + (" and as the home" if os.environ["HOME"] == str(place) else "")
        )
    folder = os.environ.get("TMPDIR", "")
    if len(os.fsencode(folder)) > LONGEST_TMPDIR_BYTES:
        short = next((place for place in _PLACES if _writable(Path(place))), None)
        if short is not None:
            os.environ["TMPDIR"] = short
            what = f"TMPDIR={folder}: longer than {LONGEST_TMPDIR_BYTES} characters, too long for sockets"
            _say(f"{what}; {short} is used instead")


def _home() -> Path | None:
    """None without HOME for a user id that has no entry in passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _writable(*folders: Path) -> bool:
    """Whether the first of them that is there can be written."""
    there = next((folder for folder in folders if folder.exists()), None)
    return there is not None and os.access(there, os.W_OK | os.X_OK)


def _own_folder() -> Path | None:
    """One of our user alone: programs are kept there, and run."""
    for place in _PLACES:
        folder = Path(place) / f"orchestrator-home-{os.getuid()}"
        if _is_ours(folder, others_may_not=0o077):
            return folder
    return None


def compiled_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """Where a process with this environment is to keep what torch compiles, if not where torch would.

    Torch takes a folder of ``/tmp`` whose name everybody can guess, and loads what lies in it as a program:
    whoever made it first would run code as our user. So it is made here, or another one is named.
    """
    if environment.get("TORCHINDUCTOR_CACHE_DIR"):
        return {}
    names = (environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME"))
    try:
        name = next(filter(None, names), None) or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid_{os.getuid()}"
    name = re.sub(r'[\\/:*?"<>|]', "_", name)
    if _is_ours(Path(environment.get("TMPDIR") or "/tmp") / f"torchinductor_{name}", others_may_not=0o022):
        return {}
    place = _own_folder()
    return {"TORCHINDUCTOR_CACHE_DIR": str(place / "torchinductor")} if place is not None else {}


def _is_ours(folder: Path, others_may_not: int) -> bool:
    """Whether it is a folder of our user, made now if need be, that others may not do this with."""
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        seen = folder.lstat()
        return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not seen.st_mode & others_may_not
    return False


def _say(text: str) -> None:
    print(text, file=sys.stderr)
