"""Whether a folder is on a disk of this machine: a database that several processes write is not safe on a
file system of the network, whose locks and shared memory do not hold between machines."""

from __future__ import annotations

from pathlib import Path

# Of the kernel's names for what lies on another machine.
_OF_THE_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "afs", "9p",
    "pvfs2", "orangefs", "weka", "wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs",
    "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.nfs", "fuse.daos", "fuse.weka",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def network_type(folder: Path, mounts: str | None = None) -> str | None:
    """The type of the network's file system that a folder is on; None on a disk of this machine, and where
    the kernel does not say."""
    try:
        table = _MOUNTS.read_text() if mounts is None else mounts
    except OSError:
        return None
    path = str(folder.resolve())
    best, kind = -1, ""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        # spaces in a path are written in octal
        point = fields[4].encode().decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # what was mounted last at one place is what is seen there
            best, kind = len(point), after.split(" ")[0]
    return kind if kind in _OF_THE_NETWORK else None
