"""Whether a checkpoint is our own work: only then is any pickle of it run.

A manifest says what a checkpoint consists of, and whoever can write the folder can write one. A signature
with a key that lies elsewhere says who wrote it, and the folder's owner and mode say whether it is still what
was signed: sums are compared before a file is opened, and somebody else who may write there could exchange it
in between.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.checkpoint.manifest import Manifest
from orchestrator.trust import why_not_ours


def why_not_vouched(folder: Path, manifest: Manifest, key: bytes) -> str | None:
    """Why the checkpoint in ``folder`` (a tag's) may be somebody else's; None where it is ours.

    ``key`` is that of the run or of ``snapshot.key_file``; every file that the manifest names is looked at.
    """
    if not manifest.is_signed_with(key):
        return "its manifest is not signed with this run's key"
    if (reason := why_not_ours(folder)) is not None:
        return reason
    for name in manifest.files:
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
