"""What stands on a command line as text, and how it passes through Hydra and OmegaConf unchanged.

``env.*``, ``job.env.*`` and ``job.args.*`` are text that others read, and may be anything. Hydra has a
grammar for values in which braces, commas, equals signs and most alphabets mean something or nothing, and
reads ``1.10`` as 1.1. So such a value is put in Hydra's quotes unless it is one of the few forms that are
meant for Hydra.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError

from orchestrator.config import deepspeed_file
from orchestrator.config.schema import MISSING
from orchestrator.config.serving import SHORT_FOR_SERVING
from orchestrator.errors import ConfigError
from orchestrator.papers import short

_TEXT = re.compile(
    r"(?P<prefix>\+\+|\+|~|)(?P<key>(?P<map>env|job\.env|job\.args)\.[^=@,]+)=(?P<value>.*)", re.DOTALL
)
_MULTIRUN = re.compile(r"\+{0,2}hydra\.mode=['\"]?multirun['\"]?", re.IGNORECASE)
_ESCAPED = re.compile(r"(\\*)\$\{")
# A double ends at 1.8e308; nothing shorter than three digits of exponent, or 300 digits, is beyond it.
_MAY_OVERFLOW = re.compile(r"[0-9.][eE]\+?[0-9_]{3,}|[0-9_]{300,}")
MOST_SHOWN = 100
COMPARE_CLUSTERS = frozenset(
    ("budget_usd", "deadline_days", "own", "serve", "requests_per_day", "serve.requests_per_day")
)
_NAMES = re.compile(r"\w+(,\w+)+")
CHOSEN_BY_BUDGET = "auto"  # serve=auto: the model is the budget's to choose
# The resolver by which a text is what it is, whatever OmegaConf would make of it.
AS_IT_IS = "as_it_is"


def for_hydra(words: Sequence[str]) -> list[str]:
    """The same command line with what is text in Hydra's quotes.

    ``+`` is as good as ``++`` for such keys, and variables need neither: any may be set. Arguments without
    ``+`` have to be there, since a misspelt one would not be missed. With ``--multirun`` what Hydra reads as
    a sweep is one.

    Raises :class:`ConfigError` for a number that no double holds, and for a variable that is to be null.
    """
    if {"-sc", "--shell-completion"} & set(words):  # words that are half typed, and nothing is made of them
        return list(words)
    swept = asks_for_sweep(words)
    made = []
    for word in in_full(words, swept):
        match = _TEXT.fullmatch(word)
        if match is None or parsed_override(f"{match['key']}=1") is None:  # what is no key has another reason
            _refuse_overflow(word)
            made.append(deepspeed_file.for_hydra(word))
        else:
            added = match["prefix"] == "+" or (not match["prefix"] and match["map"] != "job.args")
            value = _text_for_hydra(match["map"], match["key"], match["value"], swept)
            made.append(f"{'++' if added else match['prefix']}{match['key']}={value}")
    return made


def in_full(words: Sequence[str], swept: bool = False) -> list[str]:
    """What is short for several words, or for a longer key: ``serve=MODEL`` is the model and the question,
    a load may be typed without ``serve.``, and ``cluster=A,B`` of an answer that compares clusters names
    them, unless it is ``swept``."""
    compares = not swept and bool(COMPARE_CLUSTERS & {word.partition("=")[0] for word in words})
    made: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "serve" and equals and value and value[0] not in "{$":
            made += [] if value == CHOSEN_BY_BUDGET else [f"model={value}"]
            made.append("serve.asked=true")
        elif equals and key in SHORT_FOR_SERVING:
            made.append(f"serve.{word}")
        elif compares and key == "cluster" and _NAMES.fullmatch(value):
            made.append(f"clusters=[{value}]")
        else:
            made.append(word)
    return made


def asks_for_sweep(words: Sequence[str]) -> bool:
    """Whether several values of a key mean a run for each."""
    return bool({"-m", "--multirun"} & set(words)) or any(map(_MULTIRUN.fullmatch, words))


def swept_keys(words: Sequence[str]) -> list[str]:
    """The keys and groups of which there are several values; none where no sweep is asked for."""
    if not asks_for_sweep(words):
        return []
    parsed = [parsed_override(word) for word in words if not word.startswith("-")]
    return [str(one.key_or_group) for one in parsed if one is not None and one.is_sweep_override()]


def as_typed(key: str, text: str) -> str:
    """The word that gives a key this text, whatever Hydra makes of it, with the shell's quotes."""
    word = f"{key}={QuotedString(text, Quote.double).with_quotes()}"
    if word.isprintable():
        return shlex.quote(word)
    shown = (ascii(c)[1:-1] if not c.isprintable() else f"\\{c}" if c in "\\'" else c for c in word)
    return f"$'{''.join(shown)}'"


def literal(text: str) -> str:
    """Text in which OmegaConf finds nothing to interpolate and no missing value, so that it stays what it
    is."""
    if text == MISSING:
        return f"${{{AS_IT_IS}:{text}}}"
    return _ESCAPED.sub(r"\1\1\\${", text)


def literally(node: Any) -> Any:
    """The same for every text in maps and lists."""
    if isinstance(node, dict):
        return {key: literally(value) for key, value in node.items()}
    if isinstance(node, list):
        return [literally(value) for value in node]
    return literal(node) if isinstance(node, str) else node


def _text_for_hydra(group: str, key: str, value: str, swept: bool) -> str:
    parsed = parsed_override(f"{key}={value}")
    if parsed is None:
        if swept and "," in value:
            raise ConfigError(
                f"{key}={_shown(value)}: Hydra cannot read this sweep; put each value of it in quotes, or"
                f" write {as_typed(key, value)} for one text"
            )
        return _quoted(value)
    if swept and parsed.is_sweep_override():
        return value
    meaning = parsed.value()
    if isinstance(meaning, str) and value.lstrip()[:1] in ("'", '"'):
        return value
    if meaning is None and group != "job.args":
        raise ConfigError(
            f"{key}={value}: a variable is text; write {shlex.quote(f'~{key}')} to leave it out, or "
            f"{as_typed(key, value)} for the word"
        )
    if group == "job.args":
        number = isinstance(meaning, int | float) and str(meaning) == value
        if meaning is None or isinstance(meaning, bool | list) or number:
            return value
    return value if meaning == value and "${" not in value else _quoted(value)


def _quoted(value: str) -> str:
    """A well-formed ``${…}`` means what it means in a file; anything else is text."""
    if "${" in value:
        try:
            OmegaConf.create({"text": value})
        except GrammarParseError:
            value = literal(value)
    return str(QuotedString(value, Quote.single).with_quotes())


def parsed_override(word: str) -> Override | None:
    """What Hydra reads in it; None where it reads nothing."""
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError, ValueError):
        return None


def _refuse_overflow(word: str) -> None:
    key, equals, value = word.partition("=")
    if not equals or word.startswith("-") or not _MAY_OVERFLOW.search(value):
        return
    parsed = parsed_override(word)
    if parsed is not None and "inf" not in value.lower() and _infinite(parsed.value()):
        key = key.lstrip("+~")
        as_text = f", or {as_typed(key, value)} for the text" if len(value) <= MOST_SHOWN else ""
        raise ConfigError(
            f"{key}={_shown(value)}: beyond the largest number that can be held (1.8e308); write a smaller"
            f" one{as_text}"
        )


def _shown(value: str) -> str:
    return value if value.isprintable() and len(value) <= MOST_SHOWN else short(value)


def _infinite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_infinite, value.values()))
    if isinstance(value, list):
        return any(map(_infinite, value))
    if isinstance(value, Sweep):
        return _infinite(getattr(value, "list", None))
    return isinstance(value, float) and math.isinf(value)
