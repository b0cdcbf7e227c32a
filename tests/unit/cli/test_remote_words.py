"""`remote`: what is looked at here before anything is sent to a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.args import parse
from orchestrator.cli.complete import answers
from orchestrator.cli.flags import VERBS
from orchestrator.cli.remote import Printed, remote
from orchestrator.cli.remote_words import NO_PROJECT, RemoteCall
from orchestrator.errors import ConfigError

HEAD = "http://10.0.0.1:8265"


def call_of(*words: str) -> RemoteCall:
    found = parse(["remote", *words]).remote
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([HEAD, "run", "job=tiny_gpt"], RemoteCall(HEAD, "run", ("run", "job=tiny_gpt"))),
        ([HEAD, "job=tiny_gpt"], RemoteCall(HEAD, "run", ("job=tiny_gpt",))),
        ([HEAD, "-m", "job.steps=1,2"], RemoteCall(HEAD, "run", ("-m", "job.steps=1,2"))),
        (["--ca", "ca.crt", HEAD, "--python=/p", "runs", "--job", "tiny_gpt"],
         RemoteCall(HEAD, "runs", ("runs", "--job", "tiny_gpt"), python="/p", ca="ca.crt")),
        ([HEAD, "--no-upload", "logs", "night-1", "-f"],
         RemoteCall(HEAD, "logs", ("logs", "night-1", "-f"), folder=None)),
        ([HEAD, "--working-dir", "there", "--no-wait", "run", "--", "torchrun", "train.py", "--stop"],
         RemoteCall(HEAD, "run", ("run", "--", "torchrun", "train.py", "--stop"), no_wait=True, folder="there")),
        ([HEAD, "--job", "orchestrator-run-1", "--stop"],
         RemoteCall(HEAD, job="orchestrator-run-1", stop=True)),
    ],
)  # fmt: skip
def test_what_is_remotes_and_what_is_the_verbs(words: list[str], expected: RemoteCall) -> None:
    assert call_of(*words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "remote: which cluster?"),
        ([HEAD], "remote: which verb?"),
        ([HEAD, "rnu"], "'rnu' is not a verb"),
        ([HEAD, "logs"], "logs: which run?"),
        ([HEAD, "plan", "--force"], "--force: a flag of"),
        ([HEAD, "logs", "a", "--", "train.py"], "'logs' takes no command after it"),
        ([HEAD, "completion", "bash"], "'completion' is for the machine that you sit at"),
        ([HEAD, "remote", HEAD, "runs"], "'remote' is for the machine that you sit at"),
        ([HEAD, "--stop", "runs"], "--stop: of which job?"),
        ([HEAD, "--job", "a", "runs"], "--job: looks at a job that is there; leave runs out"),
        ([HEAD, "report", "a", "--html", "a.html"], "--html a.html: the cluster deletes the folder"),
        ([HEAD, "export", "format=slurm", "--out=here"], "--out here: the cluster deletes the folder"),
        ([HEAD, "run", "run_root=runs"], "run_root=runs: the cluster deletes the folder"),
    ],
)  # fmt: skip
def test_a_typing_error_is_known_here(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as refused:
        parse(["remote", *words])
    assert said in str(refused.value)


def test_remote_comes_first() -> None:
    with pytest.raises(ConfigError, match="remote: comes first"):
        parse(["--config-dir", "conf", "remote", HEAD, "run"])


def test_a_page_of_help_needs_no_cluster() -> None:
    assert (parse(["remote", "--help"]).verb, parse(["remote", "--help"]).help) == ("remote", True)
    assert (parse(["remote", HEAD, "logs", "--help"]).verb, parse(["remote", HEAD, "logs", "-h"]).help) == (
        "logs", True,
    )  # fmt: skip


def test_a_secret_is_not_shown_to_all_who_look_at_the_cluster() -> None:
    with pytest.raises(ConfigError, match=r"\+env.HF_TOKEN=\*\*\*: is a secret.*set it as a variable"):
        remote(call_of(HEAD, "run", "+env.HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz"))


def test_a_home_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"that is all of .*--no-upload"):
        remote(call_of(HEAD, "--working-dir", str(tmp_path), "run"))
    with pytest.raises(ConfigError, match="no such folder"):
        remote(call_of(HEAD, "--working-dir", str(tmp_path / "none"), "run"))


def run_by_a_shell(call: RemoteCall, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", call.command("the-mark", 77)],
        env={**os.environ, **environment}, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_shell_there_hands_every_word_on_as_it_was_typed(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "if sys.argv[1] != '-c': print(os.environ['COLUMNS'], os.environ['ORCHESTRATOR_RUN_ROOT'], sys.argv)\n"
    )
    shown.chmod(0o755)
    words = ("run", 'env.A=it\'s $HOME; rm -rf "x"', "+job.args.b=ü {c}\nd")
    call = RemoteCall(HEAD, "run", words, python=str(shown))
    done = run_by_a_shell(call, HOME="/home/ada", ORCHESTRATOR_RUN_ROOT="")
    begun, told = done.stdout.splitlines()
    assert begun == "the-mark"
    assert told == f"77 /home/ada/runs {[str(shown), '-m', 'orchestrator', *words]}"
    assert run_by_a_shell(call, ORCHESTRATOR_RUN_ROOT="/runs").stdout.splitlines()[1].startswith("77 /runs ")


def test_an_interpreter_without_the_project_is_told_from_a_run_that_fails() -> None:
    for python in ("/no/such/python", "/bin/false"):
        done = run_by_a_shell(RemoteCall(HEAD, "run", ("run",), python=python))
        assert (done.returncode, "the-mark" in done.stdout) == (NO_PROJECT, False)


def test_how_to_look_again_is_a_command_that_can_be_typed() -> None:
    call = call_of(HEAD, "--ca", "our ca.crt", "run")
    words = shlex.split(call.again("--job", "orchestrator-run-1"))
    assert words[:4] == ["python", "-m", "orchestrator", "remote"]
    again = call_of(*words[4:])
    assert (again.address, again.job, again.ca) == (HEAD, "orchestrator-run-1", "our ca.crt")


def test_completion_of_what_is_typed_for_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "journal.jsonl").touch()
    assert answers(["remote"], "") == []
    assert answers(["remote"], "--c") == ["--ca"]
    assert set(VERBS) <= set(answers(["remote", HEAD], ""))
    assert answers(["remote", HEAD, "logs"], "") == []
    assert answers(["remote", HEAD, "logs"], "--fo") == ["--follow"]
    assert "cluster=dgx_h100" in answers(["remote", HEAD, "run"], "cluster=dgx_h")


def test_only_what_follows_the_mark_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """However Ray cuts the log; what is before it has the words of the command, and with them the mark."""
    log = "Running entrypoint for job x: echo the-mark;\nRay says\nthe-mark\n[1,\n2]\nthe-mark\n"
    for size in (1, 7, len(log)):
        printed = Printed("the-mark")
        for begin in range(0, len(log), size):
            printed.take(log[begin : begin + size])
        assert capsys.readouterr().out == "[1,\n2]\nthe-mark\n"
        assert (printed.begun, printed.before.splitlines()[-1]) == (True, "Ray says")
