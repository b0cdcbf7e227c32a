"""What of a launch can be wrong before anything is started: names of variables, the folder that travels."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError


def check_forward(config: Config) -> None:
    """Names to forward are names of variables that may travel. Raises :class:`ConfigError`."""
    if not config.launch.forward:
        return  # as most say nothing of it, and a plan is made without what a zygote is known by
    from orchestrator.rank.launch.zygote_key import is_read_at_import

    for name in config.launch.forward:
        if not name or "=" in name or "*" in name:
            raise ConfigError(
                f"launch.forward: {name!r} is not the name of a variable; set values with +env.NAME=…"
            )
        if is_read_at_import(name):
            raise ConfigError(
                f"launch.forward: {name} is read when torch or DeepSpeed are imported, so another value asks"
                f" for another zygote; set it with +env.{name}=… instead"
            )


def working_dir(config: Config) -> Path | None:
    """The folder that is shipped to the nodes. Raises :class:`ConfigError` where there is none."""
    if config.launch.working_dir is None:
        return None
    folder = Path(config.launch.working_dir).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"launch.working_dir={config.launch.working_dir}: no such folder; give one that has job.script"
            " below it"
        )
    return folder
