"""Folders of pools of zygotes: what a killed one has left is removed by the next, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.agent import zygote_folder
from orchestrator.agent.zygote_pool import NodeZygotes
from orchestrator.processes import start_of


@pytest.fixture(autouse=True)
def tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(zygote_folder.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_by(folder: Path, **about: object) -> Path:
    """As another process would have left it."""
    folder.mkdir()
    told = {"pid": os.getpid(), "start": start_of()}
    told["pid_namespace"] = os.readlink("/proc/self/ns/pid")
    (folder / "owner.json").write_text(json.dumps(told | about))
    (folder / "1.log").write_text("imported")
    return folder


def test_what_a_killed_pool_has_left_goes_and_what_others_have_stays(tmpdir: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        pass
    gone = [
        left_by(tmpdir / "orchestrator-zygotes-dead", pid=ended.pid, start="of another"),
        left_by(tmpdir / "orchestrator-zygotes-number-of-another", start="of another"),
    ]
    kept = [
        left_by(tmpdir / "orchestrator-zygotes-alive"),
        left_by(tmpdir / "orchestrator-zygotes-container", pid=ended.pid, pid_namespace="pid:[1]"),
        left_by(tmpdir / "orchestrator-zygotes-odd", pid="1"),
        left_by(tmpdir / "others", pid=ended.pid, start="of another"),
    ]
    (tmpdir / "orchestrator-zygotes-earlier-version").mkdir()
    (tmpdir / "orchestrator-zygotes-link").symlink_to(kept[-1])
    first = NodeZygotes(60.0)
    assert [one for one in gone if one.exists()] == []
    assert [one for one in kept if not (one / "1.log").exists()] == []
    assert (tmpdir / "orchestrator-zygotes-earlier-version").exists()
    made = set(tmpdir.glob("orchestrator-zygotes-*")) - set(kept)
    second = NodeZygotes(60.0)
    assert made <= set(tmpdir.glob("orchestrator-zygotes-*")), "a live pool's is not taken"
    first.close()
    second.close()
    assert {one.name for one in made if one.exists()} == {
        "orchestrator-zygotes-earlier-version", "orchestrator-zygotes-link",
    }  # fmt: skip
