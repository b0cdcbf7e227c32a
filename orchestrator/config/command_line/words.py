"""What a command asks for as KEY=VALUE words, to stand before those that were typed, which win."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.command_line.forms import launch_of
from orchestrator.config.command_line.launch import Launch
from orchestrator.config.origin import word
from orchestrator.config.words import literally
from orchestrator.errors import ConfigError
from orchestrator.vocabulary import ProgramKind

_GROUPS = ("gpu", "deepspeed", "job")
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh")
_KEY_OF = {ProgramKind.SCRIPT: "script", ProgramKind.MODULE: "module", ProgramKind.COMMAND: "command"}
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Translated:
    """``words`` are as Hydra reads them; ``remark`` says in one line what they are, for people."""

    words: tuple[str, ...]
    remark: str


def translated(command: Sequence[str], typed: Sequence[str]) -> Translated:
    """The words of a command, beside those that were typed before it: where these name the program, the
    command is its words alone.

    Raises :class:`ConfigError` for what is no command, and for what cannot be done here.
    """
    for text in command:
        if not _is_text(text):
            raise ConfigError(f"-- … {text!r}: is not text in UTF-8, as every word of a command has to be")
    if any(_value_of(f"job.{name}", typed) for name in _KEY_OF.values()):
        return Translated((f"++{_word('job.argv', list(command))}",), "")
    launch = launch_of(command, Path(_value_of("job.cwd", typed) or os.getcwd()))
    groups = {name for name in (*_GROUPS, "cluster") if _value_of(name, typed)}
    keys = _sizes(launch, "cluster" in groups) | launch.keys
    if "cluster" in groups:
        keys.pop("gpu", None)  # which a cluster chooses
    chosen = [f"{name}={keys.pop(name)}" for name in _GROUPS if name in keys and name not in groups]
    keys = {name: value for name, value in keys.items() if name not in _GROUPS}
    environment = {f"job.env.{name}": value for name, value in launch.environment.items()}
    words = [*chosen, *(f"++{_word(key, value)}" for key, value in (keys | environment).items())]
    program = [] if "job" in groups else ["job=script", f"++{_word('job.name', _name_of(launch))}"]
    return Translated((*program, *_program(launch), *words), _remark(launch, [*chosen, *_shown(keys)]))


def _sizes(launch: Launch, has_cluster: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if launch.nodes is not None:
        keys["cluster.nodes"] = launch.nodes
    if launch.ranks_per_node is not None and (launch.ranks_were_given or not has_cluster):
        keys["cluster.gpus_per_node"] = launch.ranks_per_node
    return keys


def _program(launch: Launch) -> list[str]:
    key = _KEY_OF[launch.kind]
    others = [f"++job.{name}=null" for name in _KEY_OF.values() if name != key]
    return [*others, f"++{_word(f'job.{key}', launch.program)}", f"++{_word('job.argv', list(launch.argv))}"]


def _word(key: str, value: Any) -> str:
    """The text itself, whatever Hydra or OmegaConf would make of it."""
    return word(key, literally(value))


def _value_of(key: str, typed: Iterable[str]) -> str:
    """What was typed for a key or a group last, empty where nothing was."""
    values = [text.partition("=")[2] for text in typed if text.partition("=")[0].lstrip("+") == key]
    return values[-1].strip("'\"") if values else ""


def _name_of(launch: Launch) -> str:
    """The job's name, which becomes part of the run's: the module's, or the script's without its ending, of a
    shell that of the script which it reads."""
    name = launch.program if launch.kind is ProgramKind.MODULE else Path(launch.program).stem
    if (
        launch.kind is ProgramKind.COMMAND
        and name in _SHELLS
        and launch.argv[:1]
        and launch.argv[0][:1] != "-"
    ):
        name = Path(launch.argv[0]).stem
    return _NO_NAME.sub("-", name).strip("-.") or "script"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(keys: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


def _remark(launch: Launch, keys: Sequence[str]) -> str:
    """Names of variables alone, since their values may be secret."""
    parts = [f"{_KEY_OF[launch.kind]} {launch.program}"]
    if keys:
        parts.append(f"as {' '.join(keys)}")
    if launch.environment:
        parts.append(f"with {', '.join(launch.environment)} set")
    if launch.left_out:
        parts.append(f"{', '.join(launch.left_out)} left out, which Ray and the run see to")
    if launch.kind is ProgramKind.COMMAND:
        parts.append("of what runs inside, the Python process that trains is seen; checkpoints are its own")
    return f"command taken over: {'; '.join(parts)}"
