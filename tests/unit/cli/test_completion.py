"""Tab completes verbs, runs, keys and values in both spellings, in a shell, and says nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import cli, complete
from orchestrator.cli.args import SHELLS
from orchestrator.cli.complete import answers
from orchestrator.cli.completion import script
from orchestrator.cli.flags import VERBS
from orchestrator.cli.verb_help import HELP
from orchestrator.config.kinds import all_keys


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs and a configuration of one's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("night-1", "night-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "journal.jsonl").touch()
    (tmp_path / "conf" / "job").mkdir(parents=True)
    (tmp_path / "conf" / "job" / "mine.yaml").write_text("job:\n  args: {wavelength: 1}\n")
    (tmp_path / "conf" / "job" / "broken.yaml").write_text("job: [")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("", (*VERBS, "cluster=", "job.")),
        ("pl", ("plan", "planner=", "planner.")),
        ("plan cluster.no", ("cluster.node_type=", "cluster.nodes=", "cluster.node_power_w=")),
        ("plan cluster.pr", ("cluster.price.",)),
        ("plan cluster=dgx_h", ("cluster=dgx_h100", "cluster=dgx_h200")),
        ("plan -m cluster=aws_p5,dgx_h", ("cluster=aws_p5,dgx_h100",)),
        ("job.resume=", ("job.resume=never", "job.resume=auto")),
        ("launch.zygote=", ("launch.zygote=true", "launch.zygote=false")),
        ("+job.args.chec", ("+job.args.checkpoint_every=",)),
        ("--config-dir conf job=m", ("job=mine",)),
        ("--config-dir conf job.args.wave", ("job.args.wavelength=",)),
        ("--config-dir nosuch plan cluster=dgx_h", ("cluster=dgx_h100",)),
        ("resume ", ("night-1", "night-2")),
        ("resume night-2 job.st", ("job.steps=",)),
        ("calibrate night-1 night", ("night-1", "night-2")),
        ("plan --j", ("--json",)),
        ("plan requests", ("requests_per_day=",)),
        ("plan serve=deep", ("serve=deepseek_v3",)),
        ("submit te", ("team=",)),
        ("move night-1 cla", ("class=",)),
        ("compare --s", ("--sort",)),
        ("--cfg ", ("job", "hydra", "all")),
        ("completion ", SHELLS),
    ],
)
def test_a_half_typed_line(here: Path, line: str, among: tuple[str, ...]) -> None:
    *words, half = line.split(" ")
    found = answers(words, half)
    assert [one for one in among if one not in found] == []
    assert all(one.startswith(half) for one in found)


@pytest.mark.parametrize(
    "line",
    [
        "plan job.steps=",
        "plan job.cwd=/",
        "nosuch.",
        "plan -- torchrun --np",
        "plan x=y=",
    ],
)
def test_what_nothing_is_known_of(here: Path, line: str) -> None:
    *words, half = line.split(" ")
    assert not [one for one in answers(words, half) if one != f"{half}null"]


def test_every_key_is_reached_level_by_level() -> None:
    levels = {key.rpartition(".")[0] for key in all_keys()}
    found = {one for level in levels for one in answers(["plan"], f"{level}." if level else "")}
    assert [key for key in all_keys() if not {f"{key}=", f"{key}."} & found] == []


def test_whatever_goes_wrong_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> list[str]:
        raise RuntimeError("boom")

    monkeypatch.setattr(complete, "answers", fails)
    for argv in (["complete"], ["complete", "plan", "x"]):
        monkeypatch.setattr(sys, "argv", argv)
        assert complete.main() == 0
    assert capfd.readouterr() == ("", "")


def test_it_imports_nothing_that_takes_long() -> None:
    asks = (
        "import sys, orchestrator.cli.complete as c; c.answers(['plan'], 'job.args.l'); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "orchestrator.config.schema" in loaded
    assert not {"torch", "ray", "hydra", "omegaconf", "mlflow", "rich", "deepspeed"} & set(loaded)


ASK = """
ask() { COMP_LINE="$1"; COMP_POINT=${#1}; COMPREPLY=(); "$2"; echo "${COMPREPLY[*]}"; }
complete -p orchestrator python python3
ask "orchestrator resume " _orchestrator
ask "python -m orchestrator plan cluster=dgx_h" _orchestrator_module
ask "python -m orchestrator plan job.res" _orchestrator_module
ask "python -m orchestrator plan 'half \\$(nosuch" _orchestrator_module
ask "python else.py pl" _orchestrator_module
COMP_WORDBREAKS=" "
ask "orchestrator plan cluster=dgx_h" _orchestrator
"""


def test_in_bash(here: Path) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", script("bash") + ASK], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    *registered, runs, options, keys, half, other, whole = done.stdout.splitlines()
    assert registered == [
        "complete -o default -F _orchestrator orchestrator", "complete -o default -F _orchestrator_module python",
        "complete -o default -F _orchestrator_module python3",
    ]  # fmt: skip
    assert sorted(runs.split()) == ["night-1", "night-2"]
    assert options.split() == ["dgx_h100", "dgx_h200"], "bash replaces what follows the = alone"
    assert sorted(keys.split()) == ["job.resume=", "job.resume_args="]
    assert half == other == ""
    assert whole.split() == ["cluster=dgx_h100", "cluster=dgx_h200"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_in_other_shells(shell: str, here: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=script(shell), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_for_each_shell_and_a_page_for_each_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in SHELLS:
        assert cli.main(["completion", shell]) == 0
        assert "orchestrator.cli.complete" in capsys.readouterr().out
    assert tuple(sorted(HELP)) == tuple(sorted(VERBS))
    assert cli.main(["plan", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: python -m orchestrator plan")
    assert "--json" in page and "--force" not in page  # noqa: PT018
    assert cli.main(["completion", "csh"]) == 2
    assert "which shell? python -m orchestrator completion bash|zsh|fish" in capsys.readouterr().err
