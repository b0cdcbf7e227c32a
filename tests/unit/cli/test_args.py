"""A command line, taken apart once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.cli.args import Invocation, parse
from orchestrator.errors import ConfigError


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], Invocation("run", ())),
        (["job=tiny_gpt", "--trust"], Invocation("run", ("job=tiny_gpt",), trust=True)),
        (["resume", "a-run", "run_root=x"], Invocation("resume", ("run_root=x",), run="a-run")),
        (["calibrate", "a", "run_root=x", "b"], Invocation("calibrate", ("run_root=x",), runs=("a", "b"))),
        (["compare", "--csv", "--sort", "cost_usd", "--limit", "7"],
         Invocation("compare", (), csv=True, sort="cost_usd", limit=7)),
        (["down", "--force"], Invocation("down", (), force=True)),
        (["plan", "--json", "env.A=b, c"], Invocation("plan", ("++env.A='b, c'",), json=True)),
        (["--config-dir", "conf", "plan", "-m"], Invocation("plan", ("--config-dir", "conf", "-m"))),
    ],
)  # fmt: skip
def test_verb_run_flags_and_the_words_of_hydra(args: Sequence[str], expected: Invocation) -> None:
    given = list(args)
    assert parse(given) == expected
    assert given == list(args), "what was typed is nobody's to change"


def test_a_flag_of_another_verb_is_refused() -> None:
    for args in (["run", "--json"], ["plan", "--force"], ["up", "--trust"], ["down", "--csv"]):
        with pytest.raises(ConfigError, match=f"{args[1]}: a flag of .*, not of '{args[0]}'"):
            parse(args)


@pytest.mark.parametrize(
    ("words", "multirun", "is_for_hydra"),
    [
        (["job.steps=5"], False, False),
        (["-m", "job.steps=5,6"], True, True),
        (["--multirun", "job.steps=5,6"], True, True),
        (["--cfg", "job"], False, True),
        (["hydra.job.chdir=true"], False, True),
    ],
)
def test_what_is_left_to_hydras_own_command_line(
    words: list[str], multirun: bool, is_for_hydra: bool
) -> None:
    invocation = parse(["plan", *words])
    assert (invocation.multirun, invocation.is_for_hydra) == (multirun, is_for_hydra)
