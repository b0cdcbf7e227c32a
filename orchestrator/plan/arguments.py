"""The words that a job's program gets: those of ``job.argv`` as they are, then those of ``job.args``.

============  ==========================  ====================  ==============================
style         ``lr: 0.1``, ``bf16: true``  ``layers: [1, 2]``    ``opt: {betas: [0.9, 0.95]}``
============  ==========================  ====================  ==============================
``equals``    ``--lr=0.1 --bf16=true``     ``--layers=1,2``      ``--opt={"betas": [0.9, 0.95]}``
``python``    ``--lr=0.1 --bf16=True``     ``--layers=1,2``      ``--opt={"betas": [0.9, 0.95]}``
``flags``     ``--lr 0.1 --bf16``          ``--layers 1 2``      ``--opt {"betas": [0.9, 0.95]}``
``dotted``    ``--lr 0.1 --bf16``          ``--layers 1 2``      ``--opt.betas 0.9 0.95``
``hydra``     ``lr=0.1 bf16=true``         ``layers=[1,2]``      ``opt.betas=[0.9,0.95]``
============  ==========================  ====================  ==============================

An argument that is null is left out, whatever the style. ``True`` that was typed so is a text in ``equals``
(see :func:`~orchestrator.config.origin.with_typed_booleans`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.config.schema import FlagStyle, JobConfig


def words_of(job: JobConfig) -> list[str]:
    """All words after the program."""
    return [*job.argv, *arguments(job.args, job.flag_style)]


def arguments(args: Mapping[str, Any], style: FlagStyle = FlagStyle.equals) -> list[str]:
    """The words of ``job.args`` in a style."""
    if style in (FlagStyle.dotted, FlagStyle.hydra):
        args = dict(_flattened(args))
    return [word for name, value in args.items() if value is not None for word in _words(name, value, style)]


def _words(name: str, value: Any, style: FlagStyle) -> list[str]:
    match style:
        case FlagStyle.equals | FlagStyle.python:
            return [f"--{name}={_text(value, style)}"]
        case FlagStyle.hydra:
            return [f"{name}={_text(value, style)}"]
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    items = value if isinstance(value, list | tuple) else [value]
    texts = [_text(item, style) for item in items]
    if len(texts) == 1 and texts[0].startswith("-"):  # which would be read as another flag
        return [f"--{name}={texts[0]}"]
    return [f"--{name}", *texts]


def _text(value: Any, style: FlagStyle) -> str:
    match value:
        case bool() if style is not FlagStyle.python:
            return str(value).lower()
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple() if style is FlagStyle.hydra:
            return f"[{','.join(_text(item, style) for item in value)}]"
        case list() | tuple() if style in (FlagStyle.flags, FlagStyle.dotted):  # inside of a list
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            return ",".join(str(item) if isinstance(item, list) else _text(item, style) for item in value)
    return str(value)


def _flattened(args: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in args.items():
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value
