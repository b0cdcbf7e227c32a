"""The package as a stranger meets it: built, installed with all it needs, and used from an empty folder.

Takes minutes and, where pip has nothing at hand, gigabytes: ``make test-package``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import __version__
from tests.support.folders import PROJECT

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

ROOT = PROJECT
BUILD_TIMEOUT_S, INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 300, 1500, 180
# Whatever this machine has, two processor cores train.
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]
TINY = ["job=tiny_gpt", *CPU, "job.steps=6", "job.args.val_every=3", "job.args.sample_tokens=8"]

CLUSTER = """\
# @package _global_
defaults:
  - override /gpu: cpu
  - override /fabric: loopback
cluster:
  name: mine
  node_type: the box in the attic
  nodes: 1
  gpus_per_node: 2
  cpu_threads_per_rank: 1
  price: {kind: list, usd_per_gpu_hour: 0.05, source: a guess, as_of: "2026"}
"""
MODEL = """\
name: mine
layers: 2
hidden: 64
heads: 4
kv_heads: 4
ffn: 128
vocab: 320
seq_len: 64
"""
JOB = """\
# @package _global_
defaults:
  - sine
  - override /model: mine
job:
  name: mine
"""


@dataclass(frozen=True)
class Distributions:
    """What ``python -m build`` made: the wheel from the source archive, as pip would make it from there."""

    wheel: Path
    archive: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    folder = tmp_path_factory.mktemp("dist")
    build(folder)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Distributions(wheel, archive)


def build(folder: Path, *flags: str) -> None:
    """With the build backend that is here: an environment for each build would be a third of the time of all
    this."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *flags, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel in it, and a user with an empty home and an empty folder."""

    bin: Path
    home: Path
    folder: Path

    def call(self, program: str, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment as the user; it has nothing of the caller's environment."""
        return subprocess.run(
            [self.bin / program, *args],
            cwd=cwd or self.folder,
            env={
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                "COLUMNS": "110",
            },
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )

    def output(self, program: str, *args: str, cwd: Path | None = None) -> str:
        done = self.call(program, *args, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    place = tmp_path_factory.mktemp("user")
    for name in ("home", "empty"):
        (place / name).mkdir()
    try:
        subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True, timeout=120)
        # What is used is compiled when it is used: a tenth of all that is installed.
        pip = [place / "venv/bin/python", "-m", "pip", "install", "--quiet", "--no-compile", str(built.wheel)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            pip,
            cwd=place,
            env=inherited,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Installed(place / "venv/bin", place / "home", place / "empty")
    finally:
        shutil.rmtree(place)


@pytest.fixture
def own(installed: Installed, tmp_path: Path) -> Path:
    """A folder with a job script and a config directory of the user's own."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "docs" / "examples", folder)
    for name, text in (("cluster", CLUSTER), ("model", MODEL), ("job", JOB)):
        path = folder / "conf" / name / "mine.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_a_wheel_from_the_archive_is_the_wheel_from_the_checkout(
    built: Distributions, tmp_path: Path
) -> None:
    build(tmp_path, "--wheel")
    (direct,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(direct) as one, zipfile.ZipFile(built.wheel) as other:
        assert {name: one.read(name) for name in one.namelist()} == {
            n: other.read(n) for n in other.namelist()
        }


def test_the_archive_can_be_worked_with(built: Distributions) -> None:
    with tarfile.open(built.archive) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "tests/unit/cli/test_cli.py",
    } <= names
    assert not [name for name in names if re.search(r"(^|/)(\.venv|runs|__pycache__)/", name)]


def test_every_part_says_the_same_version(installed: Installed, built: Distributions) -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__
    assert built.wheel.name == f"orchestrator-{__version__}-py3-none-any.whl"
    told = installed.output("orchestrator", "--version")
    assert told.splitlines()[0] == f"orchestrator {__version__}"
    assert "installed from a package" in told
    assert installed.output("python", "-m", "orchestrator", "--version") == told
    code = "import importlib.metadata as m; print(m.version('orchestrator'))"
    assert installed.output("python", "-c", code) == f"{__version__}\n"
    assert installed.output("python", "-m", "pip", "check").startswith("No broken requirements")


def test_nothing_of_the_checkout_is_in_reach(installed: Installed) -> None:
    code = "import json, orchestrator, sys; print(json.dumps([orchestrator.__file__, sys.path]))"
    file, path = json.loads(installed.output("python", "-c", code))
    assert Path(file).is_relative_to(installed.bin.parent)
    assert not [entry for entry in path if Path(entry).is_relative_to(ROOT)]
    for name in ("tests", "jobs", "pretrain"):
        assert installed.call("python", "-c", f"import {name}").returncode == 1


def test_plans_and_help_come_with_the_package(installed: Installed) -> None:
    plan = json.loads(installed.output("orchestrator", "plan", "--json", "job=llama3_8b", "cluster=dgx_h100"))
    assert plan["layout"]["ranks"] == 32
    assert Path(plan["script"]).is_relative_to(installed.bin.parent)
    shown = installed.output("orchestrator", "plan", "job=llama3_8b", "cluster=dgx_h100")
    assert "llama3_8b on dgx_h100" in shown
    assert "dgx_h100" in installed.output("orchestrator", "--help")
    assert list(installed.folder.iterdir()) == [], "a plan writes nothing"


def test_the_main_job_trains(installed: Installed) -> None:
    shown = installed.output("orchestrator", *TINY, "run_name=first")
    assert "first finished: the job ended by itself" in shown
    assert "step 6/6" in shown
    assert (installed.folder / "runs/first/checkpoints/latest").read_text() == "step-000006"
    (row,) = json.loads(installed.output("orchestrator", "compare", "--json"))
    assert (row["name"], row["status"], row["gpus"]) == ("first", "finished", 2)


def test_a_config_directory_and_a_script_of_ones_own(installed: Installed, own: Path) -> None:
    chosen = ["cluster=mine", "model=mine", "job=mine"]
    before = installed.output("orchestrator", "--config-dir", "conf", "plan", *chosen, cwd=own)
    assert "mine on mine" in before
    assert "the box in the attic" in before
    assert installed.output("orchestrator", "plan", "--config-dir", "conf", *chosen, cwd=own) == before

    # Another cluster than this machine needs a Ray that runs there.
    on_this_machine = ["model=mine", "job=mine", *CPU, "run_name=own", "job.steps=20"]
    shown = installed.output("orchestrator", "--config-dir", "conf", *on_this_machine, cwd=own)
    assert "own finished: the job ended by itself" in shown
    assert "val_loss" in shown
    assert (own / "runs/own/checkpoints/latest").read_text() == "step-20"


TOLD = """
import mlflow
mlflow.log_metric("mine", 0.5, step=3)
print("told", mlflow.get_tracking_uri())
"""
ENTRY_POINTS = """
import importlib.metadata, json
import mlflow
groups = ("mlflow.tracking_store", "mlflow.model_registry_store", "mlflow.artifact_repository")
found = [one for group in groups for one in importlib.metadata.entry_points(group=group, name="orchestrator")]
print(json.dumps([callable(one.load()) for one in found]))
"""


def test_what_a_script_tells_mlflow_arrives_in_the_run(installed: Installed, tmp_path: Path) -> None:
    """By the wheel's entry points, and where the script is in a shell script by the wheel's hook."""
    assert json.loads(installed.output("python", "-c", ENTRY_POINTS)) == [True, True, True]
    (tmp_path / "told.py").write_text(TOLD)
    (tmp_path / "told.sh").write_text("python told.py")
    few = ["gpu=cpu", "cluster.gpus_per_node=1", "launch.zygote=false", "launch.dashboard=false"]
    shown = installed.output("orchestrator", *few, "run_name=told", "--", "bash", "told.sh", cwd=tmp_path)
    assert "told orchestrator://run" in shown
    lines = (tmp_path / "runs/told/journal.jsonl").read_text().splitlines()
    (told,) = [body for line in lines if (body := json.loads(line))["type"] == "ScriptTracked"]
    assert told["metrics"]["mine"][0][::2] == [3, 0.5]


def test_a_refusal_names_the_users_options_and_ours(installed: Installed, own: Path) -> None:
    refused = installed.call("orchestrator", "--config-dir", "conf", "plan", "cluster=mime", cwd=own)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: cluster=mime: no such option; did you mean 'mine'?")
    assert re.search(r"\(cluster: .*dgx_h100, .*local, mine, nebius_b200, .*\)", refused.stderr)
