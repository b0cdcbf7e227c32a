"""A folder of our own for a Ray that we start, which is gone with it. Imports no Ray.

Ray's own place, ``/tmp/ray``, belongs to whoever was first on the machine, everybody may write below it, and
nothing ever takes away what a cluster leaves there. Ray keeps its sockets in its folder, and Linux takes
paths of 107 bytes for these: a long ``TMPDIR`` is no place for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ClusterError

# Of Ray's folder: what Ray adds for a socket takes the rest of the 107 bytes.
LONGEST_BYTES = 38
_PREFIX, _BELOW, _OWNER = "orc-ray-", "r", "owner"
_LONGEST_PLACE_BYTES = LONGEST_BYTES - len(f"/{_PREFIX}12345678/{_BELOW}")
_REMOVE_TIMEOUT_S = 5.0
# Ray's library keeps the first token that it reads: clusters that one process starts after each other share
# one.
_TOKEN = secrets.token_hex(32)


class RayFolder:
    """A folder that only our user may enter; Ray's, ``path``, lies in it, as does a token of the cluster's
    own.

    Whoever holds ``lock_fd`` open owns it: without an owner it is swept away by the next one that is made.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.path = parent / _BELOW
        self.token_path = parent / "auth_token"
        # The name by which others find the lock comes when it is held.
        self.lock_fd = os.open(parent / f".{_OWNER}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        (parent / f".{_OWNER}").rename(parent / _OWNER)

    def write_token(self) -> None:
        """A token which Ray is to ask for, for our user's eyes."""
        with os.fdopen(os.open(self.token_path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(_TOKEN)

    def let_go(self) -> None:
        """Leave the folder to the process that has inherited ``lock_fd``."""
        os.close(self.lock_fd)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        remove(self.parent)
        self.let_go()


@contextlib.contextmanager
def ray_folder() -> Iterator[RayFolder]:
    """One that is removed at the end. Raises :class:`ClusterError`."""
    folder = make_ray_folder()
    try:
        yield folder
    finally:
        folder.remove()


def make_ray_folder() -> RayFolder:
    """A new one, below ``TMPDIR`` where that is short enough, else in another usual place.

    Raises :class:`ClusterError` where none will do.
    """
    reasons = []
    for place in _places():
        reason = f"{len(os.fsencode(place))} characters"
        if len(os.fsencode(place)) <= _LONGEST_PLACE_BYTES:
            sweep(place)
            try:
                return _made(place)
            except OSError as error:
                reason = error.strerror or str(error)
        reasons.append(f"{place}: {reason}")
    raise ClusterError(
        f"no folder for Ray's sockets ({'; '.join(reasons)}); set TMPDIR to a folder on a local disk that you"
        f" may write, at most {_LONGEST_PLACE_BYTES} characters long"
    )


def sweep(place: Path) -> None:
    """Remove the folders of ours whose owner was killed before it could."""
    for owner in place.glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError):
            lock_fd = os.open(owner, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if os.fstat(lock_fd).st_uid == os.getuid():
                    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(owner.parent, ignore_errors=True)
            finally:
                os.close(lock_fd)


def remove(parent: Path) -> None:
    """Ray's last processes may still write while they end."""
    deadline_s = time.monotonic() + _REMOVE_TIMEOUT_S
    shutil.rmtree(parent, ignore_errors=True)
    while parent.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
        shutil.rmtree(parent, ignore_errors=True)


def folder_of(session_dir: str) -> Path | None:
    """The folder of ours that a Ray's session lies in, None where it is none of ours."""
    parent = Path(session_dir).parent.parent
    return parent if parent.name.startswith(_PREFIX) else None


def _places() -> list[Path]:
    named = os.environ.get("TMPDIR")
    return list(
        dict.fromkeys(Path(p) for p in (named, "/tmp", "/var/tmp", "/dev/shm") if p and os.path.isabs(p))
    )


def _made(place: Path) -> RayFolder:
    parent = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        with socket.socket(socket.AF_UNIX) as probe:  # some network disks have none
            probe.bind(str(parent / "probe"))
        (parent / "probe").unlink()
        return RayFolder(parent)
    except OSError:
        shutil.rmtree(parent, ignore_errors=True)
        raise
