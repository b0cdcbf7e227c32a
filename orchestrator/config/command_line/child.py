"""Asks a child to read a launcher's flags: its parser imports torch, which this process never does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from orchestrator.config.command_line.launch import Launch
from orchestrator.errors import ConfigError
from orchestrator.installation import PACKAGE

# Imports of torch and DeepSpeed take some seconds, on a machine with other work some dozen.
_TIMEOUT_S = 300.0
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from orchestrator.rank.launchers import read;"
    " del sys.path[0]; read.main()"
)


def ask(launcher: str, words: Sequence[str]) -> Launch:
    """What the launcher would start. Raises :class:`ConfigError` with its own words where it would not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _BOOT, str(PACKAGE.parent), launcher, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        body = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"{launcher}: its flags cannot be read: {error}; name the script by python"
        ) from None
    except ValueError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no word of it"])[-1]
        raise ConfigError(
            f"{launcher}: its flags cannot be read: {last}; name the script by python"
        ) from None
    if "refused" in body:
        raise ConfigError(body["refused"])
    return Launch.from_json(body)
