"""What a run says of itself to MLflow before it starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.agent.facts import git_state
from orchestrator.config import load
from orchestrator.config.composing import compose
from orchestrator.config.origin import origin_of
from orchestrator.config.run_params import telling, varied
from orchestrator.driver import tracking


def repository(folder: Path) -> str:
    """With one commit; its number."""
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_repository_has_a_commit_and_a_name(tmp_path: Path) -> None:
    assert git_state(tmp_path) == ("", ""), "outside of one"
    assert git_state(tmp_path / "gone") == ("", "")
    commit = repository(tmp_path / "llm")
    inside = tmp_path / "llm" / "deep"
    inside.mkdir()
    assert git_state(inside) == (commit, "llm")
    (tmp_path / "llm" / "train.py").write_text("1")
    assert git_state(inside) == (commit, "llm"), "a file that it does not know is no change"
    for remote in ("git@host:team/project.git", "https://ada:secret@host/project/"):
        subprocess.run(["git", "-C", str(inside), "config", "remote.origin.url", remote], check=True)
        assert git_state(inside) == (commit, "project"), "what it is called for everybody"


def test_a_user_without_a_name_has_that_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "known_name", lambda uid: None)
    monkeypatch.setattr(tracking, "user_name", lambda: "uid 4711")
    for name in ("SUDO_USER", "LOGNAME", "USER"):
        monkeypatch.delenv(name, raising=False)
    assert tracking._known_user() == "uid 4711"
    monkeypatch.setenv("USER", "ada")
    assert tracking._known_user() == "ada"
    monkeypatch.setattr(tracking, "known_name", lambda uid: "grace")
    assert tracking._known_user() == "grace", "the system's word comes first"


def params(*words: str) -> dict[str, object]:
    config = compose(*words)
    return telling(load.flatten(load.to_container(config)), origin_of(config)[1])


def test_parameters_are_what_can_differ_and_whatever_was_typed() -> None:
    plain = params("job=tiny_gpt")
    assert 20 < len(plain) < 70
    named = {"cluster.name", "cluster.nodes", "gpu.name", "model.name", "cluster.price.usd_per_gpu_hour"}
    assert named | {"job.args.lr", "job.steps", "deepspeed.zero_optimization.stage"} <= plain.keys()
    groups = {key.partition(".")[0] for key in plain}
    assert not groups & {"planner", "tracking", "recovery", "launch", "run_root"}, "constants and places"
    assert "job.args.checkpoint_dir" not in plain, "a placeholder"
    typed = {
        "recovery.kill_grace_s": "3", "recovery.max_restarts": "4", "cluster.pue": "1.0",
        "job.args.lr": "1e-4", "model.rope_theta": "10000.0", "planner.wave_tail": "0.5",
        "env.NCCL_DEBUG": "INFO",
    }  # fmt: skip
    more = params("job=tiny_gpt", *(f"{key}={value}" for key, value in typed.items()))
    assert set(more) - set(plain) == set(typed) - {"job.args.lr"}
    assert params("job=tiny_gpt", "++job.args.extra=1", "run_name=x").keys() - plain == {"job.args.extra"}


def test_what_a_run_of_a_sweep_has_of_what_is_varied() -> None:
    flat = {"job.args.lr": "1e-3", "cluster.name": "lab", "job.steps": 4}
    assert varied(flat, ["job.args.lr", "cluster", "job.args.gone"]) == {
        "job.args.lr": "1e-3",
        "cluster": "lab",
    }
