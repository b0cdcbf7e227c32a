"""What of Hydra would run code from somebody's configuration, and what it is there for."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from orchestrator.cli.cli import main
from orchestrator.config import guard

RUNS = {
    "a callback": ("hydra", "callbacks: {mine: {_target_: touch.Touch}}", "hydra.callbacks.mine._target_=touch.Touch"),
    "a launcher": ("hydra", "launcher: {_target_: touch.Touch}", "hydra.launcher._target_=touch.Touch"),
    "what a module has imported": (
        "hydra", "launcher: {_target_: hydra._internal.utils.os.system}",
        "hydra.launcher._target_=hydra._internal.utils.os.system",
    ),
    "what a plugin has imported": (
        "hydra", "sweeper: {_target_: hydra_plugins.x.y.subprocess.Popen}",
        "hydra.sweeper._target_=hydra_plugins.x.y.subprocess.Popen",
    ),
    "a factory": ("hydra", "job_logging: {handlers: {x: {(): touch.Touch}}}", "hydra.job_logging.handlers.x.()"),
    "a handler": ("hydra", "hydra_logging: {handlers: {x: {class: touch.Touch}}}", "handlers.x.class=touch.Touch"),
    "a stream": ("hydra", "job_logging: {handlers: {console: {stream: 'ext://touch.made'}}}", "stream=ext://touch.made"),
    "a variable": ("hydra", "job: {env_set: {LD_PRELOAD: /tmp/x.so}}", "hydra.job.env_set.LD_PRELOAD=/tmp/x.so"),
    "our own key": ("job", "args: {x: {_target_: touch.Touch}}", "job.args.x._target_"),
}  # fmt: skip


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configurations, and a module within reach whose import and use are seen."""
    (tmp_path / "touch.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\nmade = None\ndef Touch(*args, **kwargs):"
        " Path('ran').touch()\n"
    )
    (tmp_path / "theirs" / "experiment").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "theirs"


@pytest.mark.parametrize(
    "flags", [["plan", "--config-dir", "theirs"], ["plan", "-m", "job.steps=5,6", "-cd=theirs"]]
)
@pytest.mark.parametrize("what", RUNS)
def test_nothing_that_a_configuration_names_is_run(
    theirs: Path, what: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    node, body, named = RUNS[what]
    (theirs / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{node}:\n  {body}\n")
    assert main([*flags, "experiment=mine"]) == 2
    out, error = capsys.readouterr()
    if what == "our own key" and "-m" in flags:
        error += out  # each point of a sweep has its own reason
    assert "error: " in error
    assert named in "".join(error.split())
    assert "a config is data here" in " ".join(error.split())
    assert not (theirs.parent / "ran").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.searchpath=[pkg://touch]", "-m"], "a package would be imported"),
        (["--config-dir", "theirs", "-cn", "first"], "names a package"),
        (["--config-path=pkg://touch"], "a package would be imported"),
        (["--experimental-rerun", "earlier"], "--experimental-rerun: no such flag"),
    ],
)
def test_nothing_is_imported_or_unpickled_to_find_a_configuration(
    theirs: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (theirs / "first.yaml").write_text("defaults: [config]\nhydra: {searchpath: [pkg://touch]}\n")
    (theirs.parent / "earlier").mkdir()
    (theirs.parent / "earlier" / "config.pickle").write_bytes(pickle.dumps(print))
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (theirs.parent / "ran").exists()


def test_what_it_is_there_for(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (theirs / "experiment" / "mine.yaml").write_text(
        "# @package _global_\njob: {steps: 7}\nhydra: {verbose: false}\n"
    )
    assert main(["plan", "--config-dir", str(theirs), "experiment=mine"]) == 0
    assert "7 steps" in capsys.readouterr().out
    quoted = theirs.rename(theirs.with_name("bob's files, all"))
    assert main(["plan", "--config-dir", str(quoted), "experiment=mine"]) == 0
    assert main(["plan", "-m", "--config-dir", str(quoted), "job.steps=3,4"]) == 0
    assert main(["plan", f"hydra.searchpath=['file://{theirs}']", "--config-dir", str(quoted)]) == 2
    assert "one of them is enough" in capsys.readouterr().err


ALIASES = ", ".join(["*a{0}"] * 9)
BOMBS = {
    "aliases of aliases": (
        "a: &a0 [x, x]\n" + "".join(f"b{n}: &a{n + 1} [{ALIASES.format(n)}]\n" for n in range(9))
    ),
    "itself": "a: &a [*a]\n",
    "too deep": "a: " + "[" * 5000 + "]" * 5000,
    "large": "a: " + "x" * (2 << 20),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_stands_for_more_than_memory_holds_is_refused(
    theirs: Path, bomb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (theirs / "experiment" / "bomb.yaml").write_text(BOMBS[bomb])
    began_s = time.process_time()
    assert main(["plan", "--config-dir", "theirs", *(["experiment=bomb"] if bomb == "too deep" else [])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bomb.yaml" in error or "theirs: a file there nests deeper" in error
    assert time.process_time() - began_s < 20


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("_target_", "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", True),
        ("_target_", "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", True),
        ("_target_", "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", True),
        ("_target_", "optuna.samplers.TPESampler", True),
        ("_target_", "optuna.samplers.warnings.sys.exit", False),
        ("_target_", "hydra_plugins.hydra_joblib_launcher.joblib_launcher.os.system", False),
        ("custom_search_space", None, True),
        ("custom_search_space", "touch.Touch", False),
        ("constraints_func", "touch.Touch", False),
        ("n_trials", 20, True),
    ],
)
def test_plugins_of_hydra_are_named_to_the_letter(key: str, value: object, taken: bool) -> None:
    assert (guard._why_refused(("hydra", "sweeper", key), value) is None) == taken
