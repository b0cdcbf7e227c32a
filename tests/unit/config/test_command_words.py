"""A command after ``--`` as a configuration: its words arrive to the letter, and what was typed before wins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import orchestrator as orc
from orchestrator.cli.args import parse
from orchestrator.config import load
from orchestrator.config.command_line import forms, words
from orchestrator.config.command_line.launch import LOCAL_RANK_FLAG, Launch
from orchestrator.errors import ConfigError
from orchestrator.plan.arguments import words_of
from orchestrator.redact import redact_text
from orchestrator.vocabulary import ProgramKind

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
ODD = st.text(st.sampled_from("ab01.eE-+_ \\'\"{}[]()$:=,#~@/?*%\t\né"), max_size=12)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(argv=st.lists(ANY | ODD, max_size=20))
@example(argv=["50", "10", "--bf16", "--layers", "1", "2", "3", "-v", "--", "-x"])
@example(argv=["trainer.max_epochs=3", "+a.b=[1,2]", "~c", "db@src=x", "++d={a:1}", "lr=1e-3,1e-4"])
@example(
    argv=["${job.name}", r"\${x}", "${", "${oc.env:HOME}", "???", "null", "true", "", " ", "1_000", "1.10"]
)
@example(
    argv=["a\nb", "it's", '"', "\\", "\\'", "ü", "数据", "עברית", "🙂", "a,b", "[a]", "{run}", "--x={'a': 1}"]
)
def test_words_after_the_dashes_arrive_to_the_letter(argv: list[str]) -> None:
    config = orc.compose("gpu=cpu", "--", "python", "train.py", *argv)
    assert config.job.argv == argv
    assert words_of(config.job) == argv
    assert load.from_container(load.to_container(config)).job == config.job, "as resume takes it up"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that says everything that one can say."""
    said = Launch(
        ProgramKind.SCRIPT, "train.py", (LOCAL_RANK_FLAG, "--x"), nodes=2, ranks_per_node=4, ranks_were_given=True,
        environment={"ACCELERATE_A": "1", "B": "${c},d"}, keys={"recovery.max_restarts": 7, "deepspeed": "zero3"},
        left_out=("--master_port",),
    )  # fmt: skip
    taken = forms.launch_of
    monkeypatch.setattr(words, "launch_of", lambda command, cwd: taken(command, cwd, lambda *_: said))


@pytest.mark.usefixtures("launcher")
def test_what_a_launcher_was_told_becomes_cluster_environment_and_keys() -> None:
    config = orc.compose("--", "torchrun", "anything")
    assert (config.cluster.nodes, config.cluster.gpus_per_node) == (2, 4)
    assert (config.job.name, config.job.script, config.model) == ("train", "train.py", None)
    assert config.job.argv == ["--local_rank={local_rank}", "--x"]
    assert config.job.env == {"ACCELERATE_A": "1", "B": "${c},d"}
    assert config.recovery.max_restarts == 7
    assert config.deepspeed["zero_optimization"]["stage"] == 3


@pytest.mark.usefixtures("launcher")
def test_what_was_typed_before_wins() -> None:
    typed = ["cluster.gpus_per_node=3", "job.env.B=mine", "recovery.max_restarts=1", "deepspeed=zero1"]
    config = orc.compose(*typed, "job.name=x", "--", "torchrun", "anything")
    assert (config.cluster.nodes, config.cluster.gpus_per_node, config.job.name) == (2, 3, "x")
    assert config.job.env == {"ACCELERATE_A": "1", "B": "mine"}
    assert (config.recovery.max_restarts, config.deepspeed["zero_optimization"]["stage"]) == (1, 1)


@pytest.mark.usefixtures("launcher")
def test_one_line_says_what_was_made_of_it_and_no_value_of_a_variable() -> None:
    remark = parse(["plan", "--", "torchrun", "anything"]).command_remark
    assert remark == (
        "command taken over: script train.py; as deepspeed=zero3 cluster.nodes=2 cluster.gpus_per_node=4"
        " recovery.max_restarts=7; with ACCELERATE_A, B set; --master_port left out, which Ray and the run see to"
    )


def test_a_default_of_a_launcher_does_not_win_over_a_named_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Launch(ProgramKind.SCRIPT, "train.py", ranks_per_node=1)
    monkeypatch.setattr(words, "launch_of", lambda command, cwd: said)
    assert orc.compose("--", "torchrun", "x").cluster.gpus_per_node == 1
    assert (
        orc.compose("cluster=dgx_h100", "cluster.nodes=2", "--", "torchrun", "x").cluster.gpus_per_node == 8
    )


def test_a_job_that_was_named_keeps_its_own_keys() -> None:
    config = orc.compose("job=tiny_gpt", "--", "python", "other.py", "a")
    assert (config.job.name, config.job.script, config.job.argv) == ("tiny_gpt", "other.py", ["a"])


def test_modules_and_other_programs_have_keys_of_their_own() -> None:
    assert orc.compose("--", "python", "-m", "json.tool", "x").job.module == "json.tool"
    command = orc.compose("--", "bash", "train.sh").job
    assert (command.script, command.command, command.argv, command.name) == (
        None,
        "bash",
        ["train.sh"],
        "train",
    )


def test_flags_of_ours_stand_before_the_dashes_and_those_after_are_the_commands() -> None:
    invocation = parse(["plan", "--json", "gpu=cpu", "--", "python", "train.py", "--json", "-m", "hydra.x=1"])
    assert (invocation.verb, invocation.json, invocation.multirun) == ("plan", True, False)
    assert not invocation.is_for_hydra
    assert invocation.words[-1] == "gpu=cpu"
    with pytest.raises(ConfigError, match="--: 'compare' takes no command"):
        parse(["compare", "--", "python", "train.py"])


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        parse(["--", "python", "train.py", "\udcff"])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["job=script"], "job.script: no value given; set it, e.g. job.script=…, or job.module"),
        (["job=script", "job.script=a.py", "job.module=a"], "leave the other out with job.script=null"),
        (["job=script", "job.module=nowhere_at_all"], "job.module=nowhere_at_all: no such module"),
        (["job=script", "job.command=./nowhere"], "job.command=./nowhere: no such file"),
    ],
)
def test_a_job_runs_one_program(typed: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        orc.make_plan(orc.compose("gpu=cpu", "cluster.gpus_per_node=2", *typed))


def test_a_plan_shows_the_command_and_a_link_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "train.py").write_text("")
    (tmp_path / "link.py").symlink_to("real/train.py")
    two = ("gpu=cpu", "cluster.gpus_per_node=2")
    plan = orc.make_plan(orc.compose(*two, "--", "python", "link.py", "a b"))
    assert plan.command() == f"python {tmp_path}/link.py 'a b'"
    assert (
        orc.make_plan(orc.compose(*two, "--", "python", "-m", "json.tool")).command() == "python -m json.tool"
    )
    bash = shutil.which("bash")
    assert orc.make_plan(orc.compose(*two, "--", "bash", "x.sh")).command() == f"{bash} x.sh"


def test_secrets_among_the_words_are_known_as_such() -> None:
    orc.compose(
        "--",
        "python",
        "a.py",
        "--hf_token",
        "quite-secret-1",
        "--api_key=quite-secret-2",
        "--lr",
        "not-secret",
    )
    assert redact_text("quite-secret-1 quite-secret-2 not-secret") == "*** *** not-secret"


def test_after_a_program_that_was_typed_stand_its_words_alone() -> None:
    job = orc.compose("job=script", "job.script=a.py", "--", "50", "--bf16", "python").job
    assert (job.script, job.argv) == ("a.py", ["50", "--bf16", "python"])


@pytest.mark.parametrize("word", ["+recovery.foo=1", "+job.argz=[1]", "++nothing=1", "+cluster.price.usd=1"])
def test_a_key_that_no_schema_has_is_refused_with_a_plus_too(word: str) -> None:
    key = word.lstrip("+").partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{key}: no such key"):
        orc.compose("gpu=cpu", word)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (["bash", "recipes/pre train.sh", "1"], "pre-train"),
        (["bash", "-c", "exit"], "bash"),
        (["bash"], "bash"),
        (["./train.sh", "x.sh"], "train"),
    ],
)
def test_a_shells_run_is_called_as_its_script(tmp_path: Path, form: list[str], name: str) -> None:
    (tmp_path / "train.sh").write_text("")
    (tmp_path / "train.sh").chmod(0o755)
    config = orc.compose("gpu=cpu", f"job.cwd={tmp_path}", "--", *form)
    assert config.job.name == name
