"""Whether a checkpoint is our own work: only then is any pickle of it run.

A manifest says what a checkpoint consists of, and whoever can write the folder can write one. A signature
with a key that lies elsewhere says who wrote it, and the folder's owner and mode say whether it is still what
was signed: sums are compared before a file is opened, and somebody else who may write there could exchange it
in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.manifest import MANIFEST, Manifest
from orchestrator.trust import why_not_ours

_NOT_SIGNED = "its manifest is not signed with this run's key"


def why_not_vouched(folder: Path, manifest: Manifest, key: bytes) -> str | None:
    """Why the checkpoint in ``folder`` (a tag's) may be somebody else's; None where it is ours.

    ``key`` is that of the run or of ``snapshot.key_file``; every file that the manifest names is looked at.
    """
    if not manifest.is_signed_with(key):
        return _NOT_SIGNED
    return _why_not_ours(folder, manifest.files)


@dataclass(frozen=True)
class KnownManifest:
    """The manifest of ``folder``, and whether it is signed with the key that was asked for."""

    folder: Path
    manifest: Manifest
    is_signed: bool

    def why_not_vouched(self, name: str) -> str | None:
        """The same as :func:`why_not_vouched`, of one of its files: the others are not what is opened."""
        return _why_not_ours(self.folder, (name,)) if self.is_signed else _NOT_SIGNED


class KnownManifests:
    """Manifests for which a script's own loads ask, file after file: one of thousands of files takes a while
    to read and to check, so it is read once, and anew when its file is another or was changed."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[Path, tuple[tuple[int, ...], KnownManifest]] = {}

    def of(self, folder: Path) -> KnownManifest | None:
        """None where there is no manifest. Raises OSError, and ManifestError for what is none."""
        try:
            seen = (folder / MANIFEST).stat()
        except OSError:
            return None
        if not stat.S_ISREG(seen.st_mode):
            return None
        version = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        if folder not in self._known or self._known[folder][0] != version:
            manifest = Manifest.read(folder / MANIFEST)
            known = KnownManifest(folder, manifest, manifest.is_signed_with(self._key))
            self._known[folder] = (version, known)
        return self._known[folder][1]


def _why_not_ours(folder: Path, names: Iterable[str]) -> str | None:
    if (reason := why_not_ours(folder)) is not None:
        return reason
    for name in names:
        try:
            seen = (folder / name).lstat()
        except OSError as error:
            return f"{name} cannot be looked at ({error.strerror})"
        if not stat.S_ISREG(seen.st_mode):
            return f"{name} is not a plain file"
        if seen.st_uid not in (os.geteuid(), 0):
            return f"{name} belongs to uid {seen.st_uid}"
        if seen.st_mode & stat.S_IWOTH:
            return f"{name} may be written by everybody"
    return None
