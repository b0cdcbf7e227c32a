"""Command lines and configurations of others: a plan, or one line that says what is wrong. Nothing is
started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.cli import cli
from orchestrator.config.deepspeed_keys import check_deepspeed, deprecated_keys
from orchestrator.errors import ConfigError
from tests.fuzz.inputs import ODD, ROUGH, as_yaml, bounded, damaged, fuzzed, is_one_line, nearly, rough
from tests.fuzz.test_papers import planned

Told = Callable[[list[str]], str]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Told:
    """Runs a command line of a verb that starts nothing, in this process, and holds it to the property."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["orchestrator"])

    def run(words: list[str]) -> str:
        capfd.readouterr()
        with bounded():
            try:
                code = cli.main(words)
            except SystemExit as ended:
                code = int(ended.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out, (words, err[-2000:])
        assert code in (0, 2), (words, code, err[-500:])
        if code == 2:
            swept = {"-m", "--multirun"} & set(words)  # each point of a sweep has a reason of its own
            assert swept or (err.startswith("error: ") and len(err.splitlines()) == 1), (words, err[-500:])
            assert len(err) < 5000, (words, len(err))
        return err

    return run


# Keys that a plan computes with, opens or asks of this machine.
KEYS = (
    *(
        "cluster.nodes",
        "cluster.gpus_per_node",
        "cluster.nics_per_node",
        "cluster.nic_bits_per_s",
        "cluster.pue",
    ),
    *(
        "cluster.price.usd_per_gpu_hour",
        "cluster.price.kind",
        "cluster.host_memory_bytes",
        "gpu.memory_bytes",
    ),
    *(
        "gpu.peak_flops.bf16",
        "gpu.memory_bandwidth_bytes_per_s",
        "gpu.matmul_efficiency.bf16",
        "fabric.efficiency",
    ),
    *(
        "fabric.latency_s",
        "model.layers",
        "model.hidden",
        "model.heads",
        "model.kv_heads",
        "model.vocab",
        "model.ffn",
    ),
    *("model.seq_len", "model.experts", "model.head_dim", "layout.tp", "layout.pp", "layout.sp", "layout.ep"),
    *(
        "layout.auto",
        "job.steps",
        "job.micro_batch",
        "job.global_batch",
        "job.ranks",
        "job.script",
        "job.corpus",
    ),
    *(
        "job.precision",
        "job.supports",
        "job.builds",
        "job.cwd",
        "deepspeed.zero_optimization.stage",
        "run_root",
    ),
    *(
        "deepspeed.zero_optimization",
        "deepspeed.bf16",
        "deepspeed.train_batch_size",
        "deepspeed",
        "calibration",
    ),
    *(
        "recovery.gpu_hours_per_failure",
        "snapshot.dirs",
        "planner.wave_tail",
        "planner.hbm_efficiency",
        "tracking.uri",
    ),
    *(
        "budget_usd",
        "deadline_days",
        "env",
        "run_name",
        "run_dir",
        "hydra.verbose",
        "hydra",
        "nosuch",
        "model",
        "gpu",
    ),
)
VALUES = (
    *(
        "0",
        "-1",
        "1",
        "7",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "9" * 30,
        "9" * 5000,
        "1e-320",
        "1e308",
        "0.5",
        "true",
    ),
    *(
        "null",
        "",
        "[]",
        "{}",
        "[1,2]",
        "{a: 1}",
        "x",
        "'",
        '"',
        "x" * 300,
        "x" * 5000,
        "a/" * 2500,
        "\ud800",
        "\x1b[2J",
    ),
    *(
        "${job.name}",
        "${nosuch}",
        "${oc.env:HOME}",
        "${",
        "choice(1,2)",
        "range(1,3)",
        "glob(*)",
        "[" * 200,
        "{a:" * 200,
    ),
    *("???", "*", "**", "two\nlines", "é", "\u202e", "1,2", "$(ls)", "${oc.decode:'['}", "${local_ranks:x}"),
)
WORDS = st.one_of(
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from(KEYS),
        st.sampled_from(VALUES),
    ),
    st.sampled_from(
        ["--json", "-m", "--sort", "--limit", "-cn", "--cfg", "job", "--resolve", "-p", "@", "=", "=x"]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=6),
)


@fuzzed(25)
@given(words=st.lists(WORDS, min_size=1, max_size=3))
@example(words=[f"job.script={'x' * 300}"])
@example(words=[f"calibration={'x' * 5000}"])
@example(words=["deepspeed.zero_optimization.stage=null"])
@example(words=["++deepspeed.train_batch_size=x"])
@example(words=["model.heads=1000000000000", "layout.tp=3"])
@example(words=["run_root=\ud800"])
@example(words=["env.A=\ud800{", "+job.args.a=${"])
@example(words=["-m", "env.A={,1"])
@example(words=[f"+job.args.a={'[' * 300}"])
@example(words=["++deepspeed.gradient_clipping=auto"])
def test_any_words(told: Told, words: list[str]) -> None:
    told(["plan", *words])


DEEPSPEED: dict[str, Any] = {
    "train_batch_size": 8,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.95]}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5e8},
    "bf16": {"enabled": True},
}


@fuzzed(100)
@given(body=nearly(DEEPSPEED) | st.dictionaries(st.text(max_size=5) | st.integers(), ODD, max_size=3))
@example(body={"optimizer": {"type": ["AdamW"]}})
@example(body={"scheduler": {"type": {}, "params": {}}})
@example(body={5: {6: 7}})
def test_any_configuration_of_deepspeed(body: Any) -> None:
    if isinstance(body, dict):
        with bounded():
            try:
                check_deepspeed(body)
            except ConfigError as error:
                is_one_line(error)
            else:
                deprecated_keys(body)


MINE = yaml.safe_load("""
defaults: [{override /gpu: cpu}, {override /fabric: loopback}]
cluster:
  name: attic
  node_type: box
  nodes: 1
  gpus_per_node: 2
  cpu_threads_per_rank: 1
  price: {kind: list, usd_per_gpu_hour: 0.05, source: a guess, as_of: "2026"}
deepspeed: {zero_optimization: {stage: 1}}
""")
HEAD = b"# @package _global_\n"


@fuzzed(12)
@given(data=nearly(MINE).map(as_yaml) | damaged(as_yaml(MINE)) | rough())
@example(data=b"- a list\n")
@example(data=b"? [a, b]\n: 1\n")
@example(data=b"cluster: {nodes: 2020-13-45}\n")
@example(data=b"cluster: {nodes: !!python/object/apply:os.system [id]}\n")
@example(data=ROUGH[11])
def test_any_file_of_a_configuration(told: Told, data: bytes) -> None:
    folder = Path("mine/cluster")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attic.yaml").write_bytes(HEAD + data)
    told(["plan", "--config-dir", "mine", "cluster=attic"])


@pytest.mark.parametrize(
    "data", [b"- a\n", b"defaults: 5\n", b"defaults: [5, {override /gpu: 7}]\n", b"cluster: [1]\n", b"a: [\n"]
)
def test_a_budget_reads_every_file(told: Told, data: bytes) -> None:
    folder = Path("mine/cluster")
    folder.mkdir(parents=True)
    (folder / "attic.yaml").write_bytes(HEAD + data)
    compared = "clusters=[attic,aws_p5]"  # others would be read and searched as well, which takes seconds
    told(["plan", "--config-dir", "mine", "budget_usd=1000", compared])
    told(["plan", "--config-dir", "mine", "own=true", compared])
    told(["plan", "--config-dir", "mine", "budget_usd=1000", "cluster=attic"])


@pytest.mark.parametrize("verb", ["resume", "incidents", "sync", "calibrate"])
@pytest.mark.parametrize("name", ["x" * 300, "a/" * 2500, "\ud800", "..", "'", "a=b", "-x"])
def test_any_name_of_a_run(told: Told, verb: str, name: str) -> None:
    told([verb, name])


@pytest.mark.parametrize("kind", ["a pipe", "a folder"])
@pytest.mark.timeout(120)
def test_a_configuration_is_a_file(told: Told, kind: str) -> None:
    Path("mine/cluster").mkdir(parents=True)
    path = Path("mine/cluster/attic.yaml")
    os.mkfifo(path) if kind == "a pipe" else path.mkdir()
    assert told(["plan", "--config-dir", "mine", "cluster=attic"])


def test_the_plan_itself_is_no_odd_input() -> None:
    assert json.dumps(planned())
