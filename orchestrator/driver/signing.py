"""The key by which a run signs its checkpoints: the run's own, or the one that its user keeps for all of
his."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.files import atomic_write

_RUN_KEY = "snapshot.key"
_KEY_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 16, 1 << 16
_TYPE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def check_signing(config: Config) -> None:
    """What can be said before anything is started. Raises :class:`ConfigError`."""
    for name in config.snapshot.allow_types:
        if not _TYPE_NAME.fullmatch(name):
            raise ConfigError(
                f"snapshot.allow_types: {name!r} names no type; write its module and name, as in"
                " argparse.Namespace"
            )
    if config.snapshot.key_file is not None:
        _key_of_user(config)


def signing_key(config: Config, run_dir: Path) -> bytes:
    """That of ``snapshot.key_file``, or the run's own, which is drawn when it is asked for first.

    Raises :class:`ConfigError` for a file that is no key, or that others can read.
    """
    if config.snapshot.key_file is not None:
        return _key_of_user(config)
    path = run_dir / _RUN_KEY
    try:
        return bytes.fromhex(path.read_text())
    except FileNotFoundError:
        key = secrets.token_bytes(_KEY_BYTES)
        atomic_write(path, key.hex() + "\n", 0o600)
        return key
    except ValueError:
        raise ConfigError(
            f"{path}: this is not the key that the run made; put the file back, or remove it and set "
            "snapshot.trusted to the folder of its checkpoints"
        ) from None


def _key_of_user(config: Config) -> bytes:
    """Looked at when it is open: what is checked is what is read."""
    path = Path(config.job.cwd or os.getcwd(), str(config.snapshot.key_file)).expanduser()
    given = f"snapshot.key_file={config.snapshot.key_file}"
    try:
        with path.open("rb") as file:
            seen, key = os.fstat(file.fileno()), file.read(_MOST_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(
            f"{given}: cannot be read ({error.strerror}); make one by: (umask 077; openssl rand -hex 32 >"
            f" {path})"
        ) from None
    if seen.st_uid not in (os.geteuid(), 0) or seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{given}: others may read it or it is not yours; make one of your own, or chmod 600 {path}"
        )
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ConfigError(
            f"{given}: has {len(key)} bytes, and a key has {_LEAST_BYTES} to {_MOST_BYTES}; make one by: "
            f"(umask 077; openssl rand -hex 32 > {path})"
        )
    return key
