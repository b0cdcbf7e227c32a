"""Configurations of others are data: what of Hydra would run code from one is refused before Hydra sees it.

Our own keys are looked through when they are loaded. Hydra itself instantiates callbacks, launchers and
sweepers by ``_target_``, builds loggers from any class or factory, imports packages to search for files, sets
variables of our environment and unpickles an earlier job, all of it before we are called.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator import papers
from orchestrator.config import load
from orchestrator.config.hydra_errors import in_one_line, why_not_composed
from orchestrator.errors import ConfigError, OrchestratorError

# Hydra's own, its plugins for launchers and sweepers, which Hydra imports in any case, and the samplers of
# Optuna's. To the letter: behind a module's name stands whatever it has imported, `….os.system` say.
_TARGETS = re.compile(
    r"hydra\._internal\.core_plugins\.basic_(launcher\.BasicLauncher|sweeper\.BasicSweeper)"
    r"|hydra_plugins\.\w+\.\w+\.[A-Z]\w*(Launcher|Sweeper)|optuna\.samplers\.[A-Z]\w*Sampler"
)
# Of Optuna's sweeper and its samplers: what they call, by its dotted name.
_CALLED = ("custom_search_space", "constraints_func")
_LOGGING = ("logging.", "rich.logging.", "colorlog.")
# The largest of ours has some hundred values.
_MOST_VALUES, _MOST_BYTES = 100_000, 1 << 20
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def refuse_code(words: Sequence[str]) -> DictConfig | None:
    """Raises :class:`ConfigError` where Hydra would run code that a configuration names, and what Hydra
    raises where the words cannot be composed. ``words`` are those of the command line that are Hydra's.

    Returns what they compose to without those that a sweep varies; None where they are half typed.
    """
    if {"--shell-completion", "-sc"} & set(words):  # words that are half typed, and nothing is made of them
        return None
    flags, overrides = _flags(words)
    parsed = OverridesParser.create().parse_overrides(overrides)
    plain = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
    if flags.config_dir and Path(flags.config_dir).is_dir():  # else Hydra says so
        if any(word.lstrip("+").startswith("hydra.searchpath=") for word in plain):
            raise ConfigError("hydra.searchpath and --config-dir: one of them is enough; leave the other out")
        folder = os.path.abspath(flags.config_dir).replace("'", "\\'")
        plain.append(f"hydra.searchpath=['file://{folder}']")
    for folder in (flags.config_dir, flags.config_path):
        for path in _config_files(folder) if folder else ():
            _refuse_bomb(path)
    where, name = flags.config_path or str(load.conf_dir()), flags.config_name or "config"
    _refuse_packages(
        [where, *plain], [Path(folder, f"{name}.yaml") for folder in (where, flags.config_dir) if folder]
    )
    try:
        composed = load.hydra_composes(plain, Path(os.path.abspath(where)), name)
    except RecursionError:
        raise ConfigError(
            f"{flags.config_dir or where}: a file there nests deeper than can be read"
        ) from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OrchestratorError):
        raise
    except Exception as error:
        raise ConfigError(_why_not_composed(error, [flags.config_dir, flags.config_path])) from error
    for keys, value in _leaves(_hydra_part(composed)):
        if (why := _why_refused(keys, value)) is not None:
            raise ConfigError(
                f"{'.'.join(keys)}={value}: a config is data here and this would {why}; remove the key"
            )
    return composed


def _why_not_composed(error: Exception, folders: Sequence[str | None]) -> str:
    """Of what Hydra and OmegaConf never thought: which file it is, if it is one's own."""
    why = in_one_line(error)
    for path in (path for folder in folders if folder for path in _config_files(folder)):
        try:
            OmegaConf.load(path)
        except (OSError, OmegaConfBaseException, yaml.YAMLError):
            continue  # told in words of their own, where it is chosen
        except Exception as same:  # noqa: BLE001 - it is the same one that is looked for
            if type(same) is type(error):
                return f"{path}: holds a value that YAML cannot make ({why}); write it as a quoted text"
    return why_not_composed(error)


def _refuse_packages(words: Sequence[str], primaries: Sequence[Path]) -> None:
    """Hydra imports a package to look for files in it, while it composes; only the first file may name
    one."""
    for word in words:
        if "pkg://" in word:
            raise ConfigError(f"{word}: a package would be imported to look into it; give a folder")
    for path in primaries:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # Hydra says so
            if b"pkg://" in _read(path):
                raise ConfigError(f"{path}: names a package (pkg://), which would be imported; give a folder")


def _read(path: Path) -> bytes:
    try:
        return papers.read_bytes(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _config_files(folder: str) -> Iterator[Path]:
    """All that a choice can bring in: not what is hidden, and not what a run has left."""
    for place, folders, files in os.walk(folder):
        folders[:] = (
            [] if "journal.jsonl" in files else sorted(name for name in folders if not name.startswith("."))
        )
        yield from (Path(place, name) for name in sorted(files) if name.endswith((".yaml", ".yml")))


def _refuse_bomb(path: Path) -> None:
    """A few lines of aliases stand for more than memory holds, and every value of a configuration is a
    copy."""
    try:
        size = papers.values_in(yaml.compose(papers.read_text(path, _MOST_BYTES), yaml.CSafeLoader))
    except papers.PaperError as error:
        raise ConfigError(f"{path}: {error}, which is no configuration") from None
    except (OSError, ValueError, yaml.YAMLError):
        return  # who reads it for its values says so
    if size > _MOST_VALUES:
        raise ConfigError(
            f"{path}: with its aliases it stands for more than {_MOST_VALUES:,} values; write them out"
        )


def _flags(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?")
    flags, rest = parser.parse_known_args(list(words))
    return flags, [word for word in rest if not word.startswith("-")]


def _hydra_part(composed: DictConfig) -> dict[str, Any]:
    return {"hydra": OmegaConf.to_container(composed.hydra, resolve=False)}


def _why_refused(path: tuple[str, ...], value: Any) -> str | None:
    name, text = path[-1], str(value)
    if name == "_target_":
        return None if _TARGETS.fullmatch(text) else "run code"
    if name in _CALLED and value is not None:
        return "run code"
    if "env_set" in path and value is not None:
        return "change this process's environment (env.NAME=… sets a variable of the ranks)"
    if path[1:2] not in (("job_logging",), ("hydra_logging",)):
        return None
    if name in ("()", "factory") or (name == "class" and not text.startswith(_LOGGING)):
        return "run code"
    return "run code" if "ext://" in text and text not in _STREAMS else None


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict):
        for key, inner in node.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(node, list):
        for place, inner in enumerate(node):
            yield from _leaves(inner, (*path, str(place)))
    else:
        yield path, node
