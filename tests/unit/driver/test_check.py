"""What a check expects of a cluster, which nodes it takes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cli import cli
from orchestrator.cluster.check import Candidate
from orchestrator.config.composing import composed
from orchestrator.config.origin import from_composed
from orchestrator.config.schema import Config
from orchestrator.driver.check import _chosen, expected_of, spent_of
from orchestrator.errors import ConfigError

THERE = [
    Candidate("1", "a", "10.0.0.1"),
    Candidate("2", "b", "10.0.0.2"),
    Candidate("3", "c", "10.0.0.3", ("night-1",)),
]


def configured(*words: str) -> Config:
    return from_composed(composed(words).config, words)


def test_of_a_cluster_of_gpus_what_is_published_is_expected() -> None:
    found = expected_of(configured("cluster=azure_nd_h100_v5", "job=llama3_8b"))
    assert found.gpu
    assert found.matmul_flops_per_s == pytest.approx(792e12, rel=0.001)
    assert found.memory_bytes_per_s == 3.35e12
    assert found.exchange_bytes_per_s is not None
    assert 250e9 < found.exchange_bytes_per_s <= 400e9, "eight NICs of 400 Gb/s"
    assert expected_of(configured("gpu=cpu")).exchange_bytes_per_s is None


def test_what_is_lost_is_a_share_of_the_run_that_is_planned() -> None:
    spent, what = spent_of(configured("cluster=azure_nd_h100_v5", "job=llama3_8b", "job.steps=1000"))
    assert what == "the run of job 'llama3_8b'"
    assert spent.usd is not None
    assert spent.usd > 100
    assert spent.matmul_share is not None
    assert 0.3 < spent.matmul_share < 1


def test_nodes_are_chosen_by_name_or_address_and_those_with_runs_left_alone() -> None:
    assert _chosen([], THERE) == (THERE[:2], ["c"])
    assert _chosen(["b"], THERE) == ([THERE[1]], [])
    assert _chosen(["10.0.0.1", "c"], THERE) == ([THERE[0]], ["c"])


@pytest.mark.parametrize(
    ("wanted", "there", "message"),
    [
        (
            ["bb"],
            THERE,
            "check.nodes: no node of the cluster that answers is called 'bb'; did you mean 'b'?; these answer: a, b, c",
        ),
        (["c"], THERE, r"runs hold every node that would be checked \(night-1\)"),
        ([], [], "has no node with a processor to give"),
    ],
)
def test_a_choice_that_leaves_no_node_is_refused(
    wanted: list[str], there: list[Candidate], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        _chosen(wanted, there)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["check.least_gpu_share=2"],
            "check.least_gpu_share=2: must be at most 1; write e.g. check.least_gpu_share=0.85",
        ),
        (["check.timeout_s=0"], "check.timeout_s=0: must be greater than 0"),
        (["check.best_matmul_share.hopper=1.5"], "check.best_matmul_share.hopper=1.5: must be at most 1"),
        (["check=strict"], "check=strict"),
        (["preflight=sometimes"], "preflight"),
        (["--quick", "--full"], "not allowed with argument"),
        (["--forgive", "a"], "--forgive: a flag of nodes, not of 'check'"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr("orchestrator.driver.check.find_target", started.append)
    assert cli.main(["check", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert started == []
