"""A configuration from words: for the command line and for programs alike.

Hydra's own command line, ``hydra.main``, composes everything twice, the first time to learn whether the
configuration itself asks for a sweep. So it is left for its flags, its sweeps and whatever else of it a
configuration makes use of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from orchestrator.config import guard, load
from orchestrator.config.command_line.words import translated
from orchestrator.config.hydra_errors import explain, refuse_unknown, why_not_composed, wrong_word
from orchestrator.config.origin import from_composed
from orchestrator.config.placeholders import OF_HYDRA, asks_for, texts_of
from orchestrator.config.schema import Config
from orchestrator.config.words import for_hydra
from orchestrator.errors import ConfigError, OrchestratorError


@dataclass(frozen=True)
class Composed:
    """``config`` still has its interpolations. ``asks_for_hydra``: it makes use of what ``hydra.main`` alone
    does."""

    config: DictConfig
    asks_for_hydra: bool


def compose(*words: str) -> Config:
    """Compose a configuration from ``conf/``, as ``python -m orchestrator`` would.

    Args:
        words: ``KEY=VALUE`` and ``GROUP=OPTION``, as on the command line, after which ``"--"`` and a command
            may stand; without any, that of the tiny job here.

    Raises:
        ConfigError: One line that names the key, what is wrong with it and the remedy.
    """
    place = words.index("--") if "--" in words else None
    words, command = words[:place], None if place is None else words[place + 1 :]
    flags = [word for word in words if word.startswith("-")]
    if flags:
        raise ConfigError(
            f"{flags[0]}: flags are for the command line; compose takes KEY=VALUE and GROUP=OPTION"
        )
    words = tuple(for_hydra(words))
    if command is not None:
        words = (*translated(command, words).words, *words)
    return from_composed(composed(words).config, words)


def composed(words: Sequence[str]) -> Composed:
    """Returns what Hydra makes of ``conf/`` and these words, which are no flags and as Hydra reads them.

    Raises :class:`~orchestrator.errors.ConfigError` whatever is wrong with them.
    """
    load.register()
    load.offer_files(words)
    try:
        with refusals(words):
            # else nothing of its own part is other than in our files
            if any("hydra" in word for word in words):
                guard.refuse_code(words)
            refuse_unknown(words)
            config = load.hydra_composes(words)
            with open_dict(config):
                hydra = config.pop("hydra")
            written = OmegaConf.to_container(config, resolve=False)
            return Composed(config, asks_for_hydra=_is_used(hydra) or asks_for(OF_HYDRA, texts_of(written)))
    except OrchestratorError:
        raise
    except Exception as error:  # what Hydra never thought of has its cause in the words all the same
        raise ConfigError(wrong_word(words) or why_not_composed(error)) from error


@contextlib.contextmanager
def refusals(words: Sequence[str]) -> Iterator[None]:
    """What Hydra, OmegaConf and YAML raise meanwhile is raised as a
    :class:`~orchestrator.errors.ConfigError`, in one line for a person. ``words`` are those of the command
    line that are Hydra's."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(explain(error, words)) from error


def _is_used(hydra: DictConfig) -> bool:
    return bool(
        hydra.mode is RunMode.MULTIRUN
        or hydra.callbacks
        or hydra.output_subdir
        or hydra.job.env_set
        or hydra.job.chdir
    )
