"""Text on a command line arrives as it was typed; what cannot be read is refused with the word to type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from orchestrator.cli import cli
from orchestrator.config import composing, load
from orchestrator.config.origin import with_typed_booleans
from orchestrator.config.schema import Config
from orchestrator.config.words import for_hydra, literally, parsed_override
from orchestrator.errors import ConfigError
from orchestrator.plan.arguments import arguments
from orchestrator.plan.plan import environment_of

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
ODD = st.text(st.sampled_from("ab01.eE-+_ \\'\"{}[]()$:=,#~@/?*%\t\né"), max_size=12)
Call = Callable[..., tuple[int, str, str]]


def composed(*words: str) -> Config:
    return composing.compose(*words)


def is_for_hydra(text: str) -> bool:
    """The forms that are no text: in quotes, ``${…}``, null, a list, true and false, and OmegaConf's
    ``???``."""
    bare = text.strip()
    return (
        bare[:1] in ("'", '"', "[") or "${" in bare or bare == "???" or bare.lower() in ("null", "true", "false")
    )  # fmt: skip


@settings(max_examples=6, deadline=None, derandomize=True)
@given(texts=st.lists(ANY | ODD, min_size=6, max_size=6))
@example(texts=["mlx5_0,mlx5_1", "a=b", "a: b", "#1", "{checkpoint_dir}", "mañana"])
@example(texts=["12e4567", "1e-3", "1.10", "007", "1_000", " x "])
@example(texts=["\\", "a\\'b\\", "a\\,b", "it's", "two\nlines", "-inf"])
@example(texts=["{}", "{a:1}", "choice(1,2)", "range(1,3)", "str(3)", ""])
def test_text_arrives_byte_for_byte(texts: list[str]) -> None:
    texts = [text for text in texts if not is_for_hydra(text)]
    words = []
    for place, text in enumerate(texts):
        words += [f"env.A{place}={text}", f"+job.env.B{place}={text}", f"+job.args.c{place}={text}"]
    config = composed(*words)
    environment, given_ = environment_of(config, 1), arguments(config.job.args)
    for place, text in enumerate(texts):
        assert config.env[f"A{place}"] == text
        assert config.job.env[f"B{place}"] == text
        assert environment[f"A{place}"].value == text
        assert f"--c{place}={text}" in given_


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANY | ODD)
def test_hydra_reads_any_text_as_it_is(text: str) -> None:
    assume(not is_for_hydra(text))
    (word,) = for_hydra([f"env.A={text}"])
    parsed = parsed_override(word)
    assert parsed is not None
    assert str(parsed.value()) == text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=ANY | st.text(st.sampled_from("\\${}ab.: '\""), max_size=10))
@example(text="${job.name}")
@example(text="\\\\${")
def test_a_resolved_text_is_not_interpolated_again(text: str) -> None:
    """A run that is resumed, or whose papers are read, has the values that it had."""
    assume(text != "???")
    made = load.OmegaConf.create(literally({"a": [text], "job": {"name": "x"}}))
    assert made.a[0] == text
    assert load.OmegaConf.create(load.to_yaml({"a": text}))["a"] == text


def test_a_run_that_is_resumed_has_the_same_text() -> None:
    config = composed("env.A=${", r"env.B=\${job.name}", "env.C=${job.name},${", "+job.args.d={${")
    assert (config.env["A"], config.env["B"], config.job.args["d"]) == ("${", "${job.name}", "{${")
    again = load.from_container(json.loads(json.dumps(load.to_container(config))))
    assert again == config
    assert json.loads(json.dumps(load.to_container(config)))["gpu"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ('job.args.lr="a b"', "--lr=a b"),
        ("job.args.lr=[a,'b c',1]", "--lr=a,b c,1"),
        ("job.args.lr=True", "--lr=True"),
        ("job.args.lr=true", "--lr=true"),
        ("++job.args.lr=FALSE", "--lr=FALSE"),
        ("job.args.lr=[true,False]", "--lr=true,false"),
        ("job.args.lr=0.5", "--lr=0.5"),
        ("job.args.lr=1e-3", "--lr=1e-3"),
        ("job.args.lr=${job.steps}", "--lr=7"),
        ("job.args.lr=${job.steps},{${job.seed}}", "--lr=7,{0}"),
        ('+job.args.lr="{checkpoint_dir}"', "--lr={checkpoint_dir}"),
        ("++job.args.lr={checkpoint_dir}", "--lr={checkpoint_dir}"),
    ],
)
def test_what_is_meant_for_hydra_is_read_by_it(word: str, expected: str) -> None:
    given_ = arguments(composed("job.steps=7", word).job.args)
    assert [argument for argument in given_ if argument.startswith("--lr=")] == [expected]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("equals", ["--a=True", "--b=false", "--c=False"]),
        ("python", ["--a=True", "--b=False", "--c=False"]),
        ("flags", ["--a"]),
        ("hydra", ["a=true", "b=false", "c=false"]),
    ],
)
def test_a_boolean_goes_on_as_it_was_typed_where_it_goes_on_as_text(style: str, expected: list[str]) -> None:
    words = ["+job.args.a=True", "+job.args.b=False", "+job.args.c=False", "++job.args.b=false"]
    config = composing.compose("job=script", "job.script=x", f"job.flag_style={style}", *words)
    assert arguments(config.job.args, config.job.flag_style) == expected
    again = load.from_container(json.loads(json.dumps(load.to_container(config))))
    assert arguments(again.job.args, again.job.flag_style) == expected, "a run that is resumed has the same"


def test_what_refers_to_a_boolean_has_the_boolean() -> None:
    words = ("+job.args.bf16=True", "+deepspeed.zero_allow_untested_optimizer=${job.args.bf16}")
    config = composing.compose("job=tiny_gpt", *words)
    assert config.deepspeed["zero_allow_untested_optimizer"] is True
    assert "--bf16=True" in arguments(config.job.args)


@pytest.mark.parametrize(("value", "expected"), [("True", "True"), ("False", "false")])
def test_each_run_of_a_sweep_has_the_word_that_was_typed_for_it(value: str, expected: str) -> None:
    """Hydra's own words for a sweep's runs are capitalised, however they were typed."""
    made = load.load(composing.composed([f"++job.args.a={value}"]).config)
    swept = with_typed_booleans(made, ("++job.args.a=choice(True,false)",))
    assert f"--a={expected}" in arguments(swept.job.args)


def test_null_leaves_an_argument_out() -> None:
    assert not [
        argument for argument in arguments(composed("job.args.lr=null").job.args) if "--lr=" in argument
    ]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_variable_is_set_whether_or_not_it_is_there(prefix: str) -> None:
    assert composed(f"{prefix}env.A=1", f"{prefix}env.A=2,3").env["A"] == "2,3"


@pytest.mark.parametrize("word", ["~env.A", "~env.A=b=c"])
def test_a_variable_is_taken_out(word: str) -> None:
    assert "A" not in composed("env.A=b=c", word).env


SWEPT = [
    (["-m", "env.A=a,b"], ["++env.A=a,b"]),
    (["env.A=a,b", "--multirun"], ["++env.A=a,b"]),
    (["hydra.mode=MULTIRUN", "+job.args.x=1e-3,2e-3"], ["++job.args.x=1e-3,2e-3"]),
    (["-m", "env.A=choice(1,2)", "env.B=a=b", "+job.args.d={run_dir}"],
     ["++env.A=choice(1,2)", "++env.B='a=b'", "++job.args.d='{run_dir}'"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), SWEPT)
def test_a_sweep_is_hydras(words: list[str], expected: list[str]) -> None:
    made = [word for word in for_hydra(words) if "=" in word and "hydra" not in word]
    assert made == expected


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line in a folder of its own; the exit code, and what it says on both streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["orchestrator"])

    def run(*args: str) -> tuple[int, str, str]:
        code = cli.main(list(args))
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.mark.parametrize(
    "flags", [[], ["--config-dir", "."], ["hydra.verbose=false"]], ids=["", "a folder", "hydra's"]
)
def test_the_whole_command_line_hands_it_on(call: Call, flags: list[str]) -> None:
    """With its flags it is Hydra's own command line that composes, more than once."""
    text = "hydra: {a},\n\\'\" é=#"
    code, out, err = call("plan", "--json", *flags, f"env.A={text}", f"+job.args.a={text}")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["environment"]["A"]["value"] == text
    assert f"--a={text}" in plan["args"]


@pytest.mark.parametrize(
    "words",
    [
        ["run_name=a=b"],
        ["job.script=/data/träning.py"],
        ['owner=it\'s {me} "too"'],
        ["owner=two\nlines"],
        ["-m", "env.A=a=b,c"],
        ["project=a,b"],
        ["--config-dir", ".", "project=a,{b"],
    ],
)
def test_a_refusal_says_what_to_type(call: Call, words: list[str]) -> None:
    """And that is taken, by the shell and by Hydra, as the text that was meant."""
    code, _, err = call("plan", "--json", *words)
    assert code == 2
    assert len(err.splitlines()) == 1
    key, _, text = words[-1].partition("=")
    told = re.search(rf"\$?'{re.escape(key)}=\".*\"'(?= for |$)", err)
    assert told is not None, err
    typed = subprocess.run(["bash", "-c", f"printf %s {told[0]}"], capture_output=True, text=True, timeout=60)
    value = load.OmegaConf.select(composing.composed(for_hydra([f"++{typed.stdout}"])).config, key)
    assert value == text


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cluster.pue=12e4567", "cluster.pue=12e4567: beyond the largest number"),
        (
            "++deepspeed.gradient_clipping=1e400",
            "deepspeed.gradient_clipping=1e400: beyond the largest number",
        ),
        ("snapshot.dirs=[1e999]", "snapshot.dirs=[1e999]: beyond"),
        ("env.A=null", "write '~env.A' to leave it out, or 'env.A=\"null\"' for the word"),
        ("job.corpus=/a,/b", "write 'job.corpus=[/a,/b]' for a list"),
        ("=x", "has no key"),
        ("env.é=1", "env.é=1: env.é is no key"),
        ("run_name=12e4567", "or 'run_name=\"12e4567\"' for the text"),
        ("job.args.stepz=1", "+job.args.stepz=…"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call: Call, word: str, expected: str) -> None:
    code, _, err = call("plan", word)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert expected in err


def test_what_has_no_end_is_written_so() -> None:
    assert for_hydra(["recovery.hang_factor=inf", "run_name=1e400x"]) == [
        "recovery.hang_factor=inf",
        "run_name=1e400x",
    ]
    with pytest.raises(ConfigError, match="beyond"):
        for_hydra(["recovery.hang_factor=1,1e400"])
