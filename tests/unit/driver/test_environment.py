"""Which variables of the shell reach the ranks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.agent.assignment import Shell, Signing, base_environment, rank_specs, zygote_environment
from orchestrator.agent.resumed import Origin
from orchestrator.config.schema import Config, LaunchConfig, TrackedRanks
from orchestrator.driver import resume
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.launch_check import check_forward
from orchestrator.errors import ConfigError
from orchestrator.ledger.run_directory import RESUME
from orchestrator.rank.environment import (
    LEFT_BY_LAUNCHERS,
    OWNED,
    held_back,
    held_back_remark,
    reaching_ranks,
)
from orchestrator.rank.launch import zygote_key
from tests.support.assignments import assignment
from tests.support.folders import PROJECT

DOCUMENT = (PROJECT / "docs" / "environment.md").read_text()


def listed(heading: str) -> set[str]:
    """The names and patterns of one of the document's lists, which are lines of nothing else."""
    paragraph = DOCUMENT.split(f"**{heading}**")[1].split("\n\n")[0]
    lines = [line for line in paragraph.splitlines() if re.fullmatch(r"> (`[^` ]+` ?)+", line)]
    return set(re.findall(r"`([^`]+)`", " ".join(lines)))


def test_the_document_has_the_lists_as_they_are() -> None:
    assert listed("What plan or node own.") == set(OWNED)
    assert listed("What launchers leave behind.") == set(LEFT_BY_LAUNCHERS)
    assert listed("What is read at import.") == {
        f"{prefix}*" for prefix in zygote_key.READ_AT_IMPORT_PREFIXES
    } | set(zygote_key.READ_AT_IMPORT)


def test_what_the_shell_sets_travels_and_what_node_plan_or_launchers_own_does_not() -> None:
    shell = {
        "HF_TOKEN": "1", "NCCL_DEBUG": "INFO", "SERVICE_PORTAL": "x", "RANKING": "y", "http_proxy": "p",
        "PATH": "/bin", "LD_LIBRARY_PATH": "/l", "PYTHONPATH": "/p", "LC_ALL": "C", "RAY_AUTH_TOKEN": "t",
        "HOME": "/", "REDIS_SERVICE_HOST": "10.0.0.1", "REDIS_SERVICE_PORT": "1", "KUBERNETES_PORT": "2",
        "NVIDIA_X": "0", "SLURM_PROCID": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "PMIX_RANK": "0",
        "PMI_RANK": "0", "RANK": "7", "TORCHELASTIC_RUN_ID": "a", "OMP_NUM_THREADS": "4",
        "TORCH_LOGS": "all", "TRITON_CACHE_DIR": "/t",
    }  # fmt: skip
    travel = {"HF_TOKEN", "NCCL_DEBUG", "SERVICE_PORTAL", "RANKING", "http_proxy"}
    assert set(reaching_ranks(shell)) == travel
    more = ("SLURM_PROCID", "HOME", "OMP_NUM_THREADS", "NOT_THERE")
    assert set(reaching_ranks(shell, more)) == {*travel, "SLURM_PROCID", "HOME"}


def test_what_stays_behind_though_somebody_set_it_for_ranks_is_named() -> None:
    shell = {"TORCH_LOGS": "all", "OMP_NUM_THREADS": "4", "LC_ALL": "C", "PYTHONPATH": "x", "HF_TOKEN": "1"}
    held = held_back(shell, {"OMP_NUM_THREADS": "1"})
    assert held == {"TORCH_LOGS": "all"}
    assert "do not have this shell's TORCH_LOGS; to set it for them write +env.TORCH_LOGS=…" in str(
        held_back_remark(held, {})
    )
    assert held_back_remark(held, {"TORCH_LOGS": "all"}) is None


def test_a_rank_has_node_shell_and_plan_one_over_the_other_and_nothing_of_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "MY_A": "node",
        "MY_B": "node",
        "OMPI_COMM_WORLD_RANK": "0",
        "SLURM_NTASKS": "8",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "logs").mkdir()
    there = assignment(
        run_dir=str(tmp_path), checkpoint_dir=str(tmp_path / "c"),
        shell=Shell({"MY_B": "shell", "MY_C": "shell"}, {}), environment={"MY_C": "plan"},
    )  # fmt: skip
    rank, _ = rank_specs(there, 0, Origin(1), "127.0.0.1", 29500)
    assert (rank.env["MY_A"], rank.env["MY_B"], rank.env["MY_C"]) == ("node", "shell", "plan")
    assert not {"OMPI_COMM_WORLD_RANK", "SLURM_NTASKS"} & set(rank.env)


def test_mlflow_in_a_script_finds_the_run_unless_the_plan_says_where_else(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    shell = Shell({"MLFLOW_TRACKING_URI": "http://shell:5000", "MLFLOW_RUN_ID": "0" * 32}, {})
    places = {"run_dir": str(tmp_path), "checkpoint_dir": str(tmp_path / "c"), "shell": shell}
    first, second = rank_specs(assignment(**places), 0, Origin(1), "127.0.0.1", 29500)
    assert first.env["MLFLOW_TRACKING_URI"] == second.env["MLFLOW_TRACKING_URI"] == "orchestrator://run"
    assert "MLFLOW_RUN_ID" not in first.env, "it is of the shell's server"
    assert first.tracking is not None
    assert second.tracking is not None
    assert (first.tracking["forward"], second.tracking["forward"]) == (True, False)
    assert first.tracking["run_id"] == second.tracking["run_id"]
    everybody = assignment(**places, tracking_ranks=TrackedRanks.all)
    assert all(
        spec.tracking["forward"]
        for spec in rank_specs(everybody, 0, Origin(1), "127.0.0.1", 29500)
        if spec.tracking
    )
    own = assignment(**places, environment={"MLFLOW_TRACKING_URI": "http://mine:5000"})
    first, _ = rank_specs(own, 0, Origin(1), "127.0.0.1", 29500)
    assert (first.env["MLFLOW_TRACKING_URI"], first.tracking) == ("http://mine:5000", None)


def test_a_zygote_and_what_is_printed_of_an_assignment_have_nothing_of_the_shell() -> None:
    there = assignment(shell=Shell({"HF_TOKEN": "hush"}, {"AN_OLD": "hush"}), signing=Signing("hush", False))
    assert base_environment(there)["HF_TOKEN"] == "hush"
    assert "hush" not in zygote_environment(there).values()
    assert "hush" not in repr(there)


def test_shell_variables_ask_for_no_other_zygote() -> None:
    there = assignment()
    shell = reaching_ranks(
        {"HF_TOKEN": "1", "TORCH_LOGS": "all", "OMP_PROC_BIND": "true", "DS_X": "1", "LC_X": "1"}
    )
    other = assignment(shell=Shell(shell, {}))
    assert zygote_key.ZygoteKey.of(base_environment(there), ()) == zygote_key.ZygoteKey.of(
        base_environment(other), ()
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TORCH_LOGS", r"launch.forward: TORCH_LOGS is read when .* set it with \+env.TORCH_LOGS=…"),
        ("A=b", r"launch.forward: 'A=b' is not the name of a variable"),
        ("SLURM_*", r"launch.forward: 'SLURM_\*' is not the name"),
    ],
)
def test_what_cannot_be_forwarded_is_refused_with_the_remedy(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_forward(Config(launch=LaunchConfig(forward=[name])))


def test_a_run_that_is_taken_up_says_which_names_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "x")
    found = resume.Unfinished(tmp_path, "r", JournalFold(tmp_path), forwarded=("HF_TOKEN", "WANDB_API_KEY"))
    told = resume.missing_names(Config(), found)
    assert told == "not set in this shell, so the ranks do not get it from here: WANDB_API_KEY"
    assert resume.missing_names(Config(), None) is None
    asked = Config(launch=LaunchConfig(forward=["SLURM_JOB_NOT_THERE"]))
    assert "SLURM_JOB_NOT_THERE" in str(resume.missing_names(asked, None))


def test_the_run_directory_has_names_and_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.ledger.run_directory import RunDirectory

    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    monkeypatch.setattr("orchestrator.config.load.to_container", lambda _config: {})
    resume.remember(Config(), RunDirectory(tmp_path))
    text = (tmp_path / RESUME).read_text()
    assert "HF_TOKEN" in json.loads(text)["forwarded"]
    assert "hush-hush" not in text
