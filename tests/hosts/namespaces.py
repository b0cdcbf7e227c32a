"""The namespaces that hosts are made of: what is mounted in them, and how one enters them."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import IO, Any

from tests.support.folders import PROJECT

HOME, WORK, SHARED = "/tmp/home", "/tmp/work", "/tmp/shared"
NEEDED = {
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "mount": "mount",
    "ip": "iproute2", "pkill": "procps",
}  # fmt: skip
# Read-only on every host, also where it lies in a folder that is private to each or on a disk of its own.
_SAME_IMAGE = dict.fromkeys(map(os.path.realpath, (PROJECT, sys.prefix, sys.base_prefix)))
_PRIVATE = ("/tmp", "/run", "/var/tmp", "/dev/shm")
READY_TIMEOUT_S = 20
PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"  # `ip` is often in one of the last two


class NoHostsError(Exception):
    """This machine lets us make no hosts; the message says why."""


def host_name(number: int) -> str:
    return f"host-{number:02d}"


def address(number: int) -> str:
    return f"10.77.0.{number}"


def _closed_ways() -> list[str]:
    """The topmost folders above interpreter and checkout that other users may not pass, such as root's
    home."""
    topmost: list[Path] = []
    for source in _SAME_IMAGE:
        closed = (way for way in reversed(Path(source).parents) if not way.stat().st_mode & stat.S_IXOTH)
        topmost += list(closed)[:1]
    return [str(way) for way in dict.fromkeys(topmost) if not str(way).startswith(_PRIVATE)]


def setup_of_a_host(name: str, shared: Path | None, for_all_users: bool = False) -> str:
    """Shell commands that the host's first process runs. ``for_all_users`` lets them pass to interpreter and
    checkout, wherever these lie; whatever else lies on the way is not to be seen then."""
    kept = [(path, path) for path in _SAME_IMAGE]
    if shared is not None:
        kept.append((str(shared.resolve()), SHARED))
    lines = [f"hostname {name}", "mount --make-rprivate /"]
    # Held open, they can still be named once something is mounted above them.
    lines += [f"exec {fd}<{shlex.quote(source)}" for fd, (source, _) in enumerate(kept, start=3)]
    lines += [f"mount -t tmpfs -o mode=1777,size=2g private {folder}" for folder in _PRIVATE]
    if for_all_users:
        lines += [f"mount -t tmpfs -o mode=755,size=1m way {shlex.quote(way)}" for way in _closed_ways()]
    for fd, (_, target) in enumerate(kept, start=3):
        lines += [
            f"mkdir -p {shlex.quote(target)}",
            f"mount --no-canonicalize --bind /proc/self/fd/{fd} {shlex.quote(target)}",
        ]
        lines += [f"exec {fd}<&-"] + (
            [] if target == SHARED else [f"mount -o remount,bind,ro {shlex.quote(target)}"]
        )
    # A host's own name leads nowhere, as on many a Linux.
    names = [
        "127.0.0.1 localhost",
        f"127.0.1.1 {name}",
        *(f"{address(n)} {host_name(n)}" for n in range(1, 50)),
    ]
    lines += [f"mkdir -p {HOME} {WORK}", f"printf '%s\\n' {shlex.join(names)} > /run/hosts"]
    lines += ["mount --bind /run/hosts /etc/hosts", "mount -o remount,bind,ro /"]
    # Processes without a parent become children of the first one, which buries none: so it is in many
    # containers.
    lines += ["echo ready", "exec sleep infinity"]
    return "\n".join(lines)


def enter(pid: int, *more: str) -> list[str]:
    """The beginning of a command that runs in the namespaces of a process."""
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={pid}", *user, "--mount", "--net", "--pid", "--ipc", *more]


def wait_ready(process: Any) -> None:
    """Until the last line of a setup. Raises :class:`NoHostsError` with what it said instead."""
    stream: IO[str] = process.stdout
    said = []
    for line in stream:
        if line == "ready\n":
            return
        said.append(line.strip())
    raise NoHostsError(f"this machine makes no namespaces for us: {' '.join(said) or 'no reason given'}")


def pid_one_level_up(pid: int) -> int:
    """The number of a host's first process in the namespace that the bridge is in."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return int(line.split()[-2])


def pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
