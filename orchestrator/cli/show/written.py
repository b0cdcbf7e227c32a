"""Files that somebody asks for by name: refused before anything is looked up where they cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.files import atomic_write
from orchestrator.papers import short, why_no_path


def place_of(flag: str, name: str) -> Path:
    """Where it is to be. Raises :class:`ConfigError` where no file can be written there."""
    if why := why_no_path(name):
        raise ConfigError(f"{flag} {short(name)}: {why}; name another file")
    path = Path(name)
    if path.is_symlink():
        raise ConfigError(f"{flag} {name}: is a link; name the file that it leads to")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{flag} {name}: is there and is no file; name another one")
    if not path.parent.is_dir():
        raise ConfigError(f"{flag} {name}: there is no folder {path.parent}; mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"{flag} {name}: the folder {path.parent} is not yours to write in; name another file"
        )
    return path


def write_at(flag: str, path: Path, content: str | bytes) -> None:
    """The whole of it or nothing. Raises :class:`ConfigError` where the disk does not take it."""
    try:
        atomic_write(path, content, durable=False)
    except OSError as error:
        raise ConfigError(f"{flag} {path}: cannot be written: {error.strerror}; name another file") from error
