"""Each verb's own flags, beside those of Hydra: one table, from which its parser, its errors and completion
are made."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator.errors import ConfigError


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def _number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port from 1024 to 65535")
    return int(text)


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return value


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"'{text}' lacks a word; as in 'cluster,job.args.lr'")
    return words


@dataclass(frozen=True)
class Flag:
    """One flag of a verb; its first long name is the field of an Invocation."""

    names: tuple[str, ...]
    value: Callable[[str], Any] | None = None  # what is made of the word after it; None: there is none
    instead_of: str = ""  # of flags of one verb with the same word here, one may be typed


def _flag(*names: str, value: Callable[[str], Any] | None = None, **more: Any) -> Flag:
    return Flag(names, value, **more)


def _texts(*names: str) -> tuple[Flag, ...]:
    return tuple(_flag(name, value=str) for name in names)


_VERSION = _flag("--version")
_TRUST = _flag("--trust")
_FORCE = _flag("--force")
_JSON = _flag("--json", instead_of="output")
_CSV = _flag("--csv", instead_of="output")
_OFF = _flag("--off")
_BY = _flag("--by", value=_words)
_LIMIT = _flag("--limit", value=_count)

FLAGS: dict[str, tuple[Flag, ...]] = {
    "run": (_TRUST,),
    "resume": (_TRUST,),
    "stop": (_TRUST, _flag("--now"), _flag("--no-wait")),
    "runs": (
        _JSON, _TRUST, _LIMIT, _flag("--state", value=_words),
        *_texts("--job", "--cluster", "--owner", "--project"),
    ),
    "spend": (
        _JSON, _CSV, _TRUST, _BY, *_texts("--owner", "--project", "--cost-center", "--cluster", "--month"),
    ),
    "logs": (
        _TRUST, _flag("--rank", value=_number), _flag("--attempt", value=_count),
        _flag("--lines", "-n", value=_count), _flag("--follow", "-f"),
    ),
    "report": (_JSON, _TRUST, *_texts("--html")),
    "open": (_TRUST, _flag("--browser")),
    "sync": (_TRUST,),
    "incidents": (_JSON, _TRUST),
    "plan": (_JSON,),
    "compare": (
        _JSON, _CSV, _BY, _LIMIT, _flag("--to-loss", value=_real),
        *_texts("--sort", "--filter", "--html", "--png"),
    ),
    "calibrate": (_TRUST,),
    "up": (),
    "status": (_JSON,),
    "down": (_FORCE,),
    "export": (_FORCE, *_texts("--out")),
    "check": (_JSON, _flag("--quick", instead_of="depth"), _flag("--full", instead_of="depth")),
    "nodes": (_JSON, *_texts("--forgive")),
    "simulate": (
        _JSON, _CSV, *_texts("--trace", "--fleet", "--replay", "--profile", "--jobs-csv", "--png"),
        _flag("--policies", value=_words), _flag("--gpus", value=_count), _flag("--seeds", value=_count),
        _flag("--restart-s", value=_amount), _flag("--early", value=_amount),
        _flag("--jitter-s", value=_amount), _flag("--by-team"),
    ),
    "doctor": (),
    "submit": (_JSON, _flag("--dry-run"), _flag("--again"), _flag("--no-forecast")),
    "queue": (_JSON, *_texts("--why")),
    "cancel": (_JSON,),
    "hold": (_JSON, _OFF),
    "move": (_JSON,),
    "quota": (_JSON,),
    "reserve": (_JSON, _OFF),
    "drain": (_JSON, _OFF),
    "dispatch": (_JSON, _flag("--stop")),
    "remote": (
        _flag("--no-upload"), _flag("--no-wait"), _flag("--stop"),
        *_texts("--working-dir", "--python", "--ca", "--job"),
    ),
    "fleet": (_flag("--browser"), _flag("--port", value=_port), *_texts("--html")),
    "completion": (),
}  # fmt: skip
VERBS = tuple(FLAGS)
HYDRA_FLAGS = (
    "--help", "-h", "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--info", "-i",
)  # fmt: skip
MAY_TAKE_A_VALUE = ("--info", "-i")
TAKE_A_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    *dict.fromkeys(name for flags in FLAGS.values() for flag in flags if flag.value for name in flag.names),
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; see --help")


def own_flags(verb: str) -> list[str]:
    """The flags of a verb that are not Hydra's, as they are typed."""
    return [name for flag in (_VERSION, *FLAGS[verb]) for name in flag.names]


def parser_of(verb: str) -> argparse.ArgumentParser:
    """Takes a verb's own flags out of a command line, and gives those alone that were typed.

    ``--help`` is Hydra's, with our text.
    """
    parser = _Parser(
        prog=f"orchestrator {verb}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    groups: dict[str, argparse._ActionsContainer] = {}
    for flag in (_VERSION, *FLAGS[verb]):
        place: argparse._ActionsContainer = parser
        if flag.instead_of:
            if flag.instead_of not in groups:
                groups[flag.instead_of] = parser.add_mutually_exclusive_group()
            place = groups[flag.instead_of]
        if flag.value is None:
            place.add_argument(*flag.names, action="store_true")
        else:
            place.add_argument(*flag.names, type=flag.value)
    return parser
