"""The words of ``job.args``, in each style."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from orchestrator.config.schema import FlagStyle, JobConfig
from orchestrator.plan.arguments import arguments, words_of

ARGS: dict[str, Any] = {
    "lr": 1e-4,
    "bf16": True,
    "compile": False,
    "none": None,
    "layers": [1, 2],
    "name": "a b",
    "opt": {"betas": [0.9, 0.95], "fused": True},
}


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (FlagStyle.equals, [
            "--lr=0.0001", "--bf16=true", "--compile=false", "--layers=1,2", "--name=a b",
            '--opt={"betas": [0.9, 0.95], "fused": true}',
        ]),
        (FlagStyle.python, [
            "--lr=0.0001", "--bf16=True", "--compile=False", "--layers=1,2", "--name=a b",
            '--opt={"betas": [0.9, 0.95], "fused": true}',
        ]),
        (FlagStyle.flags, [
            "--lr", "0.0001", "--bf16", "--layers", "1", "2", "--name", "a b",
            "--opt", '{"betas": [0.9, 0.95], "fused": true}',
        ]),
        (FlagStyle.dotted, [
            "--lr", "0.0001", "--bf16", "--layers", "1", "2", "--name", "a b",
            "--opt.betas", "0.9", "0.95", "--opt.fused",
        ]),
        (FlagStyle.hydra, [
            "lr=0.0001", "bf16=true", "compile=false", "layers=[1,2]", "name=a b",
            "opt.betas=[0.9,0.95]", "opt.fused=true",
        ]),
    ],
    ids=lambda value: value.value if isinstance(value, FlagStyle) else "",
)  # fmt: skip
def test_each_style_has_its_words(style: FlagStyle, expected: list[str]) -> None:
    assert arguments(ARGS, style) == expected


def test_argparse_reads_what_is_written_for_it() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("total", type=int)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--shift", type=float)
    parser.add_argument("--opt", type=json.loads)
    parser.add_argument("--trainer.epochs", type=int)
    args = {"bf16": True, "layers": [1, 2], "shift": -0.5, "opt": {"a": [1]}, "trainer.epochs": 3}
    read = vars(parser.parse_args(words_of(JobConfig(argv=["7"], args=args, flag_style=FlagStyle.flags))))
    assert read == {"total": 7, **args}


def test_argv_stands_first() -> None:
    assert words_of(JobConfig(argv=["config/a.py", "-v"], args={"lr": 1})) == ["config/a.py", "-v", "--lr=1"]
