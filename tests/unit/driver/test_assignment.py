"""What a user asked for, as the nodes hear it."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.agent import assignment as parts
from orchestrator.agent.assignment import Assignment
from orchestrator.config import load
from orchestrator.driver.assignment import assignment_of
from orchestrator.driver.preflight import planned

CLASSES = (Assignment, parts.Places, parts.Program, parts.Ranks, parts.Secrets, parts.Shell, parts.Signing)


def told(folder: Path, *words: str) -> tuple[orc.Config, Assignment]:
    config = orc.compose("job=tiny_gpt", f"job.cwd={folder}", *words)
    return config, assignment_of(config, planned(config), "a-run", folder, "mark", None)


def test_what_is_asked_of_a_part_reaches_the_nodes_as_that_part(tmp_path: Path) -> None:
    config, there = told(
        tmp_path,
        "recovery.hang_after_s=77",
        "recovery.stop_signals=[usr2]",
        "snapshot.keep=5",
        "launch.log_max_bytes=0",
    )
    assert there.recovery == config.recovery
    assert (there.recovery.hang_after_s, there.recovery.stop_signals) == (77, ["usr2"])
    assert there.snapshot == config.snapshot
    assert there.snapshot.keep == 5
    assert there.launch == config.launch
    assert there.launch.log_max_bytes == 0


def test_paths_are_made_absolute_for_the_nodes_and_the_configuration_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, there = told(
        tmp_path, "snapshot.trusted=[older]", "launch.working_dir=.", "job.checkpoint_dir=kept"
    )
    assert there.snapshot == replace(config.snapshot, trusted=[str(tmp_path / "older")])
    assert there.launch == replace(config.launch, working_dir=str(tmp_path))
    assert there.places.checkpoint_dir == str(tmp_path / "kept")
    assert (config.snapshot.trusted, config.launch.working_dir) == (["older"], ".")


def test_an_assignment_repeats_no_default_of_the_schema() -> None:
    given = [f"{each.__name__}.{one.name}" for each in CLASSES for one in fields(each)
             if (one.default, one.default_factory) != (MISSING, MISSING)]  # fmt: skip
    assert given == []


def test_a_script_is_called_as_it_was_named_where_its_ranks_find_it_so(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train.py").write_text("")
    named = {
        "./sub/train.py": "./sub/train.py",
        f"{tmp_path}/sub/../sub/train.py": f"{tmp_path}/sub/../sub/train.py",
    }
    for script, expected in named.items():
        _, there = told(tmp_path, "job.corpus=[]", f"job.script={script}")
        assert (there.program.script, there.program.file.resolve()) == (
            expected,
            tmp_path / "sub" / "train.py",
        )
    _, there = told(tmp_path)
    assert there.program.script == str(load.conf_dir().parent / "jobs/pretrain.py"), (
        "one of ours, found elsewhere"
    )


def test_a_run_that_is_taken_up_began_when_it_began(tmp_path: Path) -> None:
    config = orc.compose("job=tiny_gpt")
    made = assignment_of(config, planned(config), "a-run", tmp_path, "mark", None, 12.5)
    assert made.began_unix_s == 12.5
