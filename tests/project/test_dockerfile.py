"""The image: pinned, for nobody's root, and made of files that are there. No daemon builds it here."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch

import pytest

import orchestrator
from tests.support.folders import PROJECT

TEXT = (PROJECT / "Dockerfile").read_text()
LINES = re.sub(
    r"\\\n\s*", " ", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def test_the_base_is_a_version_and_every_package_is_pinned() -> None:
    (base,) = [one.partition("=")[2] for one in instructions("ARG") if one.startswith("BASE=")]
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-\w+", base)
    installs = [line for line in instructions("RUN") for line in line.split("&&") if "pip install" in line]
    assert len(installs) == 3
    assert all("--constraint infra/constraints.txt" in line or "--no-deps" in line for line in installs)
    assert f"orchestrator:{orchestrator.__version__}-cuda" in TEXT


def test_it_runs_as_the_user_that_the_manifests_name() -> None:
    from orchestrator.config.export_schema import KubeRayConfig

    assert instructions("USER") == ["1000:1000"]
    assert KubeRayConfig().user == 1000
    assert "/runs" in TEXT
    assert instructions("WORKDIR") == ["/workspace"], "where the manifests start a run"


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    patterns = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert patterns[0] == "*", "nothing is sent that is not named"
    sent = [line[1:] for line in patterns if line.startswith("!")]
    for line in instructions("COPY"):
        *sources, _target = line.split()
        for source in sources:
            assert (PROJECT / source).exists(), source
            assert any(fnmatch(source, one) for one in sent), f"{source} is not sent to the builder"
    for secret in (".env", ".git", "runs", ".venv"):
        assert not any(fnmatch(secret, one) for one in sent)


@pytest.mark.parametrize("command", instructions("RUN"))
def test_a_shell_reads_every_step(command: str) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run([shell, "-n", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
