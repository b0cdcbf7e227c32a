"""What goes into the wheel, without installing it; ``make test-package`` does that."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from orchestrator import __version__
from tests.support.folders import PROJECT

ROOT = PROJECT
CARRIED = ("conf", "jobs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as hatchling builds it here."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"orchestrator-{__version__}.dist-info/METADATA"))


def newest_heading() -> str:
    """The version of the first second-level heading of the changelog."""
    headings: list[str] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    return headings[0]


def test_the_changelog_begins_with_this_version(metadata: Message) -> None:
    assert newest_heading() == __version__ == metadata["Version"]


def test_the_wheel_carries_configuration_and_jobs_and_nothing_of_the_checkout(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder in CARRIED:
        ours = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.suffix in (".yaml", ".py")}
        assert ours
        assert {f"orchestrator/{path.as_posix()}" for path in ours} <= names
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "orchestrator").rglob("*.py")}
    assert {*modules, "orchestrator/py.typed", "orchestrator/config/deepspeed_keys.json"} <= names
    assert {name.partition("/")[0] for name in names} == {
        "orchestrator",
        f"orchestrator-{__version__}.dist-info",
    }
    assert not [name for name in names if re.search(r"(^|/)(tests?|runs|docs|__pycache__)/|\.pyc$", name)]


def test_the_wheel_has_a_command_and_a_licence(wheel: zipfile.ZipFile) -> None:
    about = f"orchestrator-{__version__}.dist-info"
    assert "orchestrator = orchestrator.cli.cli:main" in wheel.read(f"{about}/entry_points.txt").decode()
    assert wheel.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_metadata_says_what_the_project_file_says(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Summary"] == project["description"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert set(metadata.get_all("Classifier", [])) == set(project["classifiers"])
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in project["classifiers"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


def imported(path: Path) -> set[str]:
    """First names of all that a file imports, wherever in the file."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_import_is_a_declared_dependency(metadata: Message) -> None:
    """None works only because another package brings it along."""
    called = {"yaml": "pyyaml", "hydra": "hydra-core", "pynvml": "nvidia-ml-py"}
    jobs = list((ROOT / "jobs").glob("*.py"))
    found = set().union(*map(imported, [*(ROOT / "orchestrator").rglob("*.py"), *jobs]))
    foreign = found - sys.stdlib_module_names - {"orchestrator", *(path.stem for path in jobs)}
    declared = {re.split(r"[^\w-]", line)[0] for line in metadata.get_all("Requires-Dist", [])}
    assert {"torch", "ray"} <= foreign
    assert {called.get(name, name) for name in foreign} <= declared
