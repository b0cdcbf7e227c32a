"""A DeepSpeed file of one's own: chosen by a word or named by the script's arguments, read as DeepSpeed reads
it, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import cli
from orchestrator.config import load
from orchestrator.config.composing import compose
from orchestrator.driver.planning import make_plan, sweep
from orchestrator.errors import ConfigError

WITH_COMMENTS = """{ // ours
  "train_micro_batch_size_per_gpu": 8, # a rank
  "gradient_accumulation_steps": 2,
  "gradient_clipping": 0.5,
}
"""
PLAIN = ("job=script", "job.script=train.py", "gpu=cpu", "cluster=local", "cluster.gpus_per_node=2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("import deepspeed\n")
    (tmp_path / "hf.py").write_text("from transformers import Trainer\n")
    (tmp_path / "a b").mkdir()
    for name in ("ds.hjson", "ds.json", "a b/ü.json"):
        (tmp_path / name).write_text(WITH_COMMENTS)
    return tmp_path


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(compose(*words), observed=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", ["ds.hjson", "./ds.json", "a b/ü.json", "../{}/ds.json", "{}/ds.json"])
def test_a_file_is_the_deepspeed_part_and_words_on_top_of_it_win(folder: Path, path: str) -> None:
    path = path.format(folder.name if path.startswith("..") else folder)
    config = compose(*PLAIN, f"deepspeed={path}", "deepspeed.gradient_clipping=2")
    assert config.deepspeed == {
        "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2, "gradient_clipping": 2,
    }  # fmt: skip
    plan = make_plan(config, observed=False)
    assert (plan.layout.micro_batch, plan.layout.accumulation, plan.layout.global_batch) == (8, 2, 32)
    assert Path(str(plan.deepspeed_file)).name == Path(path).name
    assert f"deepspeed   {plan.deepspeed_file}" in str(plan)
    assert load.from_container(load.to_container(config)) == config, "as a run is resumed"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1', "no DeepSpeed configuration"),
        ("", "it is empty"),
        ("[1]", "a list of 1 and no object"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("[" * 5000, "no DeepSpeed configuration"),
    ],
)
def test_what_is_no_configuration_is_refused(folder: Path, text: str, why: str) -> None:
    (folder / "bad.json").write_text(text)
    message = refusal(*PLAIN, "deepspeed=bad.json")
    assert message.startswith("deepspeed=bad.json: ")
    assert why in message
    assert message.endswith('e.g. {"zero_optimization": {"stage": 2}}')


def test_a_file_that_is_not_there_is_refused_with_the_options(folder: Path) -> None:
    assert refusal(*PLAIN, "deepspeed=none.json").startswith("deepspeed=none.json: no such file (")
    assert cli.main(["plan", *PLAIN, "deepspeed=none.json"]) == 2


def test_its_text_is_not_interpolated(folder: Path) -> None:
    (folder / "ds.json").write_text(json.dumps({"tensorboard": {"job_name": "${job.name}"}}))
    assert compose(*PLAIN, "deepspeed=ds.json").deepspeed["tensorboard"]["job_name"] == "${job.name}"


def test_a_sweep_takes_files(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "two.json").write_text('{"train_micro_batch_size_per_gpu": 2}')
    points = sweep(compose(*PLAIN), {"deepspeed": ["ds.json", "two.json"]})
    assert [point.plan and point.plan.layout.global_batch for point in points] == [32, 4]
    assert cli.main(["plan", "-m", *PLAIN, "deepspeed=ds.json,two.json", "--json"]) == 0
    body = capfd.readouterr().out
    assert "deepspeed=two.json" in body or '"two.json"' in body


def test_the_file_that_the_script_reads_is_planned_from(folder: Path) -> None:
    plan = make_plan(compose(*PLAIN, "+job.args.deepspeed_config=ds.json"), observed=False)
    assert (plan.layout.global_batch, plan.deepspeed_argument) == (32, "deepspeed_config")
    assert "ds.json, which the script reads by itself (job.args.deepspeed_config)" in str(plan)


@pytest.mark.parametrize("argv", ["[50,--deepspeed_config,ds.json]", "['--deepspeed_config=ds.json',50]"])
def test_a_word_of_its_own_command_line_names_it_too(folder: Path, argv: str) -> None:
    plan = make_plan(compose(*PLAIN, f"job.argv={argv}"), observed=False)
    assert (plan.layout.global_batch, plan.deepspeed_argument) == (32, "--deepspeed_config")
    assert "ds.json, which the script reads by itself (--deepspeed_config)" in str(plan)
    assert "no argument has {deepspeed_config}" not in str(plan)
    assert "reads ds.json by itself (--deepspeed_config)" in refusal(
        *PLAIN, f"job.argv={argv}", "deepspeed=zero2"
    )


def test_words_of_a_program_that_is_no_python_say_nothing_here(folder: Path) -> None:
    (folder / "train.sh").write_text("#!/bin/sh\n")
    (folder / "train.sh").chmod(0o755)
    words = ("job=script", "job.script=null", "job.command=./train.sh", "job.argv=[--deepspeed,ds.json]")
    assert make_plan(compose(*words), observed=False).deepspeed_file is None


@pytest.mark.parametrize("word", ["deepspeed=zero2", "deepspeed.gradient_clipping=3"])
def test_what_such_a_script_would_not_hear_of_is_refused(folder: Path, word: str) -> None:
    message = refusal(*PLAIN, "+job.args.deepspeed_config=ds.json", word)
    assert message.startswith(f"{word}: the script reads ds.json by itself")
    assert "write deepspeed=ds.json and job.args.deepspeed_config={deepspeed_config}" in message


def test_comments_are_named_before_transformers_meets_them(folder: Path) -> None:
    words = (*PLAIN, "job.script=hf.py", "+job.args.deepspeed=ds.json")
    assert "transformers and accelerate read JSON alone" in refusal(*words)
    (folder / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 3}')
    assert make_plan(compose(*words), observed=False).layout.micro_batch == 3
