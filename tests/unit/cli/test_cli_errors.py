"""A user's own config directory: chosen like ours, and refused in words that know it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli import cli

Result = tuple[int, str, str]
Call = Callable[..., Result]

CLUSTER = """\
# @package _global_
defaults:
  - override /gpu: cpu
  - override /fabric: loopback
cluster:
  name: attic
  node_type: the box in the attic
  nodes: 1
  gpus_per_node: 2
  cpu_threads_per_rank: 1
  price: {kind: list, usd_per_gpu_hour: 0.05, source: a guess, as_of: "2026"}
"""
JOB = """\
# @package _global_
defaults:
  - override /model: null
job:
  name: flavours
  script: train.py
  args: {flavour: vanilla}
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line from a folder with ``train.py`` and the config directory ``mine``."""
    (tmp_path / "train.py").touch()
    for group, text in (("cluster/attic", CLUSTER), ("job/flavours", JOB)):
        put(tmp_path / "mine" / f"{group}.yaml", text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["orchestrator"])

    def run(*args: str) -> Result:
        code = cli.main(list(args))
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refusal(result: Result) -> str:
    """The one line on stderr."""
    assert result[0] == 2
    (line,) = result[2].strip().splitlines()
    return line.removeprefix("error: ")


CHOICE = ["cluster=attic", "job=flavours"]
HERE = ["cluster=local", "gpu=cpu", "job=flavours"]


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "--config-dir", "mine", *CHOICE],
        ["plan", "--config-dir=mine", *CHOICE],
        ["--config-dir", "mine", "plan", *CHOICE],
        ["-cd", "mine", *CHOICE, "plan"],
        ["plan", "hydra.searchpath=[file://mine]", *CHOICE],
    ],
    ids=["behind the verb", "with an equals sign", "before the verb", "the verb last", "as a search path"],
)
def test_files_of_ones_own_are_chosen_like_ours(call: Call, args: list[str]) -> None:
    code, out, err = call(*args)
    assert (code, err) == (0, "")
    assert "flavours on attic" in out
    assert "the box in the attic" in out
    assert "--flavour=vanilla" in " ".join(out.split())


REFUSED: list[tuple[str, list[str], list[str]]] = [
    ("unknown option", ["cluster=atic"], ["did you mean 'attic'?", "dgx_h100", "local"]),
    ("ours, misspelt", ["cluster=locl"], ["did you mean 'local'?", "attic"]),
    (
        "a key of their file",
        [*CHOICE, "job.args.flavor=1"],
        ["did you mean 'job.args.flavour'?", "+job.args.flavor=…"],
    ),
    ("a key of the schema", [*CHOICE, "job.stepz=1"], ["did you mean 'job.steps'?"]),
    ("a misspelt key in a file", ["cluster=misspelt"], ["cluster.nodess", "did you mean 'cluster.nodes'?"]),
    ("a group without package", ["cluster=bare"], ["override /gpu", "# @package _global_"]),
    ("broken YAML", ["cluster=broken"], ["mine/cluster/broken.yaml, line 3", "not YAML"]),
    (
        "a library that is not there",
        [*HERE, "launch.preload=[json,nosuch]"],
        ["launch.preload=nosuch: there is no module 'nosuch'", "leave it out"],
    ),
    ("no name of a library", [*HERE, "launch.preload=['9 x']"], ["launch.preload: '9 x'", "write e.g."]),
    ("a verb, misspelt", ["paln"], ["'paln' is not a verb", "did you mean 'plan'?"]),
]


@pytest.mark.parametrize(("args", "expected"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refusals_know_the_users_files(call: Call, args: list[str], expected: list[str]) -> None:
    put(Path("mine/cluster/misspelt.yaml"), CLUSTER.replace("nodes: 1", "nodess: 1"))
    put(Path("mine/cluster/bare.yaml"), CLUSTER.replace("# @package _global_", ""))
    put(Path("mine/cluster/broken.yaml"), "cluster:\n  name: [unclosed\n")
    message = refusal(call("--config-dir", "mine", *args))
    for words in expected:
        assert words in message


def test_near_misses_survive_a_choice_that_is_itself_wrong(call: Call) -> None:
    put(Path("mine/job/flavours.yaml"), JOB.replace("script:", "scirpt:"))
    message = refusal(call("--config-dir", "mine", "job=flavours"))
    assert message.startswith("job.scirpt: no such key; did you mean 'job.script'?")


def test_a_config_dir_with_blanks_and_quotes_in_its_name(call: Call) -> None:
    Path("mine").rename("bob's files, all")
    message = refusal(call("plan", "--config-dir", "bob's files, all", *CHOICE, "job.args.flavor=1"))
    assert "did you mean 'job.args.flavour'?" in message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config-dir", "nowhere"], "nowhere: no such directory"),
        (["plan", "--config-dir"], "--config-dir: needs a value after it"),
        (["--config-dir", "--json", "plan"], "--config-dir: needs a value after it"),
    ],
)
def test_a_config_dir_that_is_none(call: Call, args: list[str], expected: str) -> None:
    assert expected in refusal(call(*args))
