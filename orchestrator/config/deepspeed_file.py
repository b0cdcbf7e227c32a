"""A DeepSpeed configuration in a file of its own: JSON, or HJSON with its comments and trailing commas, which
DeepSpeed itself reads.

Two ways lead to one: ``deepspeed=FILE.json`` chooses it for the whole run, and an argument of the script
names the file that the script hands to DeepSpeed by itself. Paths are meant from the working directory.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import papers
from orchestrator.config.deepspeed_argument import is_file, named_by
from orchestrator.errors import ConfigError

_CHOICE = re.compile(r"(?P<before>\+{0,2}deepspeed=)(?P<options>.+)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
_MOST_BYTES = 1 << 20
_GROUP = "zero0, zero1, zero2, zero3, zero3_offload"


def chosen_files(words: Sequence[str]) -> list[str]:
    """The files that words choose; with ``--multirun`` one may choose several."""
    return [one for word in words if (options := _options(word)) for one in options if is_file(one)]


def for_hydra(word: str) -> str:
    """The same word as Hydra takes it: a file's path from here, in quotes where it is not plain."""
    options = _options(word)
    if not any(map(is_file, options)):
        return word
    made = [_option_for_hydra(one) if is_file(one) else one for one in options]
    return f"{word.partition('=')[0]}={','.join(made)}"


def read(path: str, key: str = "deepspeed", folder: Path | None = None) -> dict[str, Any]:
    """What a file has. Raises :class:`ConfigError` in one line that begins with ``key`` and ends with the
    remedy."""
    full = Path(folder or Path.cwd(), path)
    try:
        text = papers.read_text(full, _MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(
            f"{key}={path}: no such file ({full}); give the path of a DeepSpeed configuration, or choose one"
            f" of {_GROUP} with deepspeed=…"
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or papers.one_line(str(error))
        raise ConfigError(f"{key}={path}: cannot be read: {why}; give a file of JSON or HJSON") from None
    try:
        return _object_of(text)
    except (ValueError, RecursionError) as error:
        why = "it nests deeper than can be read" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(
            f"{key}={path}: no DeepSpeed configuration ({papers.one_line(why)}); it has to be one JSON or"
            ' HJSON object, e.g. {"zero_optimization": {"stage": 2}}'
        ) from None


def why_not_strict(path: str, folder: Path | None = None) -> str | None:
    """Why Python's ``json`` cannot read a file that DeepSpeed reads; None where it can."""
    try:
        papers.json_of(papers.read_bytes(Path(folder or Path.cwd(), path), _MOST_BYTES))
    except (OSError, ValueError) as error:
        return papers.one_line(str(error))
    return None


def own_file(
    args: Mapping[str, Any], argv: Sequence[str], cwd: Path, script: str
) -> tuple[str, str, Path] | None:
    """What :func:`named_by` finds, with the folder that the file lies in: the ranks' working directory, or
    the script's own folder."""
    named = named_by(args, argv)
    if named is None:
        return None
    beside = (cwd / Path(script).expanduser()).parent
    folder = beside if not (cwd / named[1]).exists() and (beside / named[1]).exists() else cwd
    return *named, folder


def _options(word: str) -> list[str]:
    match = _CHOICE.fullmatch(word)
    if match is None:
        return []
    text = match["options"].strip()
    if text[0] in "'\"" and text[-1] == text[0] and text[0] not in text[1:-1]:
        return [text[1:-1]]
    return [one.strip().strip("'\"") for one in text.split(",")]


def _option_for_hydra(path: str) -> str:
    path = os.path.expanduser(path)
    path = os.path.relpath(path) if os.path.isabs(path) else path
    if _PLAIN.fullmatch(path):
        return path
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _object_of(text: str) -> dict[str, Any]:
    """Strict JSON is the rule, and needs no parser of somebody else. Raises ``ValueError``."""
    try:
        body = papers.json_of(text)
        json.loads(text, object_pairs_hook=_once)
    except papers.NotJsonError:
        import hjson

        if not text.strip():
            raise papers.PaperError("it is empty") from None
        body = hjson.loads(text, object_pairs_hook=_once)
        papers.json_of(hjson.dumpsJSON(body))  # the bounds of what is read hold here too
    if not isinstance(body, dict):
        raise papers.PaperError(f"it is {papers.short(body)} and no object")
    return body


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """DeepSpeed refuses a key that is there twice, of which one value would win without a word."""
    body = dict(pairs)
    if len(body) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise papers.PaperError(f"{papers.short(twice)} is there twice")
    return body
