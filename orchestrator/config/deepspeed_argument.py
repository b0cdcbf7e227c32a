"""The argument by which a script is told of a DeepSpeed file of its own: nothing here looks at the disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.config.schema import JobConfig

ENDINGS = (".json", ".hjson")
# Arguments by which scripts are given a file: transformers', DeepSpeed's own, and those of examples.
ARGUMENTS = ("deepspeed", "deepspeed_config", "deepspeed_config_file", "ds_config")


def is_file(option: str) -> bool:
    """Whether a choice of ``deepspeed`` is a file's path, and no option of ``conf/``."""
    return option.endswith(ENDINGS)


def named_by(args: Mapping[str, Any], argv: Sequence[str] = ()) -> tuple[str, str] | None:
    """The argument of a script that names a file of its own, and that file; None where there is none. A
    placeholder names ours. One of ``job.args`` is named as there, one of the words ``argv`` as it stands
    there, with its dashes."""
    for name, value in (*args.items(), *_pairs(argv)):
        own = name.lstrip("-").replace("-", "_") in ARGUMENTS
        if own and isinstance(value, str) and is_file(value) and "{" not in value:
            return name, value
    return None


def argv_of(job: JobConfig) -> list[str]:
    """The words of a job that may name a file for DeepSpeed. What a program that is no Python makes of its
    own, nobody can tell."""
    return [] if job.command else [str(word) for word in job.argv]


def given_to(job: JobConfig) -> dict[str, Any]:
    """The arguments of a script by name, those of ``job.args`` and those among its words; an option that no
    value follows is True. What is in both has the value of ``job.args``."""
    words = {
        name.lstrip("-").replace("-", "_"): True if value == "" or value.startswith("--") else value
        for name, value in _pairs(argv_of(job))
        if name.startswith("--")
    }
    return {**words, **job.args}


def as_typed(name: str) -> str:
    """What a user has typed for an argument that :func:`named_by` has named."""
    return name if name.startswith("-") else f"job.args.{name}"


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``--name=value`` and ``--name value``."""
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            yield name, value if equals else following
