"""Words that were composed before are not composed again: Hydra takes a fifth of a second, for the same result.

It reads the same files each time, and many tests ask for the same few words.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, open_dict

from orchestrator.config import hardware, load
from orchestrator.config.schema import Config

MOST = 256  # of a tenth of a megabyte each


class Compositions:
    """In the place of :func:`orchestrator.config.load.hydra_composes`, whose results it keeps.

    It asks anew where a result follows from more than the words, the project's own files and this machine's
    GPUs: folders and files of a test, and Hydra's own part. What Hydra refuses is never kept.
    """

    def __init__(self) -> None:
        self.composes: Callable[..., DictConfig] = load.hydra_composes
        self._kept: OrderedDict[object, bytes] = OrderedDict()

    def __call__(self, words: Sequence[str], folder: Path | None = None, name: str = "config") -> DictConfig:
        if folder is not None or any("hydra" in word or _is_a_file(word) for word in words):
            return self.composes(words, folder, name)
        key = (tuple(words), name, load.conf_dir(), repr(hardware.local_gpus()))
        if key not in self._kept:
            self._kept[key] = pickle.dumps(self.composes(words, folder, name))
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        made: DictConfig = pickle.loads(self._kept[key])
        return made


def _is_a_file(word: str) -> bool:
    """A file that somebody chooses becomes an option by its path, and may change."""
    name, _, value = word.partition("=")
    return name.lstrip("+") == "deepspeed" and ("." in value or "/" in value)


def composition(*words: str) -> DictConfig:
    """What Hydra makes of our files and these words, none of which is looked at for what it means."""
    load.register()
    made = load.hydra_composes(words)
    with open_dict(made):
        made.pop("hydra")
    return made


def config_of(*words: str) -> Config:
    """The same as dataclasses."""
    return load.load(composition(*words))
