"""A configuration from words, in a program: what the command line does, without Hydra's own command line."""

from __future__ import annotations

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from orchestrator.config import guard, load
from orchestrator.config.hydra_errors import explain
from orchestrator.config.schema import Config
from orchestrator.config.words import for_hydra
from orchestrator.errors import ConfigError


def compose(*words: str) -> Config:
    """Returns the configuration that the words ``KEY=VALUE`` and ``GROUP=OPTION`` make of ``conf/``, as
    ``python -m orchestrator`` would have it.

    Raises :class:`~orchestrator.errors.ConfigError`: one line that names the key, what is wrong with it and
    the remedy.
    """
    flags = [word for word in words if word.startswith("-")]
    if flags:
        raise ConfigError(
            f"{flags[0]}: flags are for the command line; compose takes KEY=VALUE and GROUP=OPTION"
        )
    load.register()
    words = tuple(for_hydra(words))
    try:
        guard.refuse_code(words)
        with initialize_config_dir(str(load.conf_dir()), version_base="1.3"):
            composed = hydra_compose("config", list(words))
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(explain(error, words)) from None
    return load.load(composed)
