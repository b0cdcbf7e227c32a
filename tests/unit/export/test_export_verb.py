"""The verb `export`: to a pipe, to a folder, of a sweep, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import cli
from orchestrator.cli.export import check, order_of_sweep
from orchestrator.errors import ConfigError
from tests.unit.export.orders import documents, order

SLURM = ["export", "format=slurm", "cluster=dgx_h100", "job=tiny_gpt"]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    return " ".join(error.split())


def test_one_text_for_a_pipe_and_nothing_else_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "format=kuberay", "cluster=azure_nd_h100_v5", "kuberay.network=host"]) == 0
    heard = capsys.readouterr()
    kinds = [one["kind"] for one in documents(heard.out)]
    assert kinds[0] == "PersistentVolumeClaim"
    assert kinds[-1] == "RayJob"
    assert "RayCluster" not in kinds, "a job brings its own"
    assert "close Ray's ports" in heard.err


def test_a_folder_gets_the_files_and_the_terminal_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*SLURM, "--out", str(tmp_path / "a")]) == 0
    script = tmp_path / "a" / "tiny-gpt-dgx-h100.sbatch"
    assert script.read_text().startswith("#!/bin/bash\n")
    assert script.stat().st_mode & 0o111
    assert "sbatch tiny-gpt-dgx-h100.sbatch" in capsys.readouterr().out
    assert cli.main([*SLURM, "--out", str(tmp_path / "a")]) == 0, "the same again changes nothing"


def test_what_somebody_has_changed_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([*SLURM, "--out", str(tmp_path)])
    script = tmp_path / "tiny-gpt-dgx-h100.sbatch"
    script.write_text("mine")
    assert "tiny-gpt-dgx-h100.sbatch is there and says something else; --force" in said(
        capsys, *SLURM, "--out", str(tmp_path)
    )
    assert script.read_text() == "mine"
    assert cli.main([*SLURM, "--out", str(tmp_path), "--force"]) == 0
    assert script.read_text() != "mine"


def test_a_sweep_becomes_a_job_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SLURM, "-m", "job.args.lr=1e-3,2e-3", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "tiny-gpt-dgx-h100.sbatch").read_text()
    assert "#SBATCH --array=0-1%1" in text
    assert "0) words+=(job.args.lr=0.001)" in text


def test_points_of_a_sweep_that_are_no_tasks_of_one_job_are_refused() -> None:
    points = [(order("cluster=dgx_h100", f"cluster.nodes={nodes}").config, ()) for nodes in (2, 4)]
    with pytest.raises(ConfigError, match="the same nodes"):
        order_of_sweep(points, ["cluster.nodes=2,4"])
    with pytest.raises(ConfigError, match="-m format=kuberay: a sweep is exported to Slurm alone"):
        check("kuberay", swept=True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["format=kubray"], "format=kubray: no such format (kuberay"),
        (["format=kubray"], "did you mean 'kuberay'?"),
        ([], "export: to what? Write format=NAME, one of kuberay"),
        (["format=slurm", "+env.WANDB_API_KEY=abcdef0123456789"], "env.WANDB_API_KEY=***: is a secret"),
        (["format=slurm", "fabric=loopback"], "fabric=loopback: joins no machines, and cluster.nodes=4"),
        (
            ["format=slurm", "cluster.price.capex_usd_per_gpu=null"],
            "cluster.price.capex_usd_per_gpu is not set",
        ),
        (
            ["format=slurm", "cluster.hypothetical=true", "gpu=h200", "cluster.price.kind=list"],
            "without a price",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why in said(capsys, "export", "cluster=dgx_h100", *words)


def test_a_run_takes_no_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert "format=slurm: is for 'export'" in said(capsys, "format=slurm", "cluster=local")
