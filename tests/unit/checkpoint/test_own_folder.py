"""Which folders are those of one checkpoint, with what a trainer has put around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.checkpoint.own_folder import is_own_folder, step_of
from tests.support.assignments import assignment
from tests.support.crashes import committed


@pytest.mark.parametrize(
    ("folder", "tags", "own"),
    [
        ("/run/checkpoints/checkpoint-15", ["global_step15"], True),
        ("/run/checkpoints/checkpoint-15", [], True),
        ("/run/checkpoints/last.ckpt", ["global_step15"], True),
        ("/run/checkpoints", ["global_step15"], False),
        ("/run/checkpoints/best", ["global_step10", "global_step15"], False),
        ("/elsewhere/epoch=1-step=15.ckpt", ["global_step15"], True),
        ("/elsewhere/step_000015", ["global_step15"], True),
        ("/elsewhere/checkpoint-150", ["global_step15"], False),
        ("/home/me", ["global_step15"], False),
    ],
)
def test_a_folder_is_a_checkpoint_s_own(folder: str, tags: list[str], own: bool) -> None:
    assert is_own_folder(Path(folder), Path("/run/checkpoints"), "global_step15", 15, tags) is own


def test_it_is_put_aside_as_a_whole_and_nothing_is_lost(tmp_path: Path) -> None:
    files = CheckpointFiles()
    files.assignment = assignment(checkpoint_dir=str(tmp_path))
    for step in (10, 15):
        committed(tmp_path / f"checkpoint-{step}", step)
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    lies = Path(files.quarantine(str(tmp_path / "checkpoint-15"), "step-15", "the run went back"))
    assert lies == tmp_path / ".quarantine" / "checkpoint-15.1"
    assert (lies / "reason.txt").read_text() == "the run went back\n"
    assert (lies / "step-15" / "manifest.json").is_file()
    assert (lies / "trainer_state.json").is_file()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10"]
    assert files.places(str(tmp_path)) == [str(tmp_path), str(tmp_path / "checkpoint-10")]


def test_what_a_save_that_never_got_its_name_has_left_is_out_of_the_way(tmp_path: Path) -> None:
    files = CheckpointFiles()
    files.assignment = assignment(checkpoint_dir=str(tmp_path))
    committed(tmp_path / "checkpoint-10", 10)
    for name in ("checkpoint-5", "checkpoint-15", "checkpoint-20", "run-30", ".hidden-40"):
        (tmp_path / name / ".attempts" / "attempt-0001-step-000015" / "global_step15").mkdir(parents=True)
        (tmp_path / name / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-25").mkdir()  # none of ours
    (tmp_path / "checkpoint-20" / "global_step20").mkdir()
    (tmp_path / "checkpoint-20" / "global_step20" / "mp_rank_00_model_states.pt").touch()  # of torchrun's
    chosen = str(tmp_path / "checkpoint-10")
    moved = files.clear_way(str(tmp_path), chosen, "its save was never finished")
    assert moved == {"checkpoint-15": str(tmp_path / ".quarantine" / "checkpoint-15.1")}
    assert (Path(moved["checkpoint-15"]) / "trainer_state.json").is_file(), "moved, not removed"
    assert files.clear_way(str(tmp_path), chosen, "") == {}
    assert set(files.clear_way(str(tmp_path), None, "nothing to go on from")) == {"checkpoint-5", "run-30"}
    assert [step_of(name) for name in ("checkpoint-15", "epoch=1-step=20.ckpt", "last")] == [15, 20, 0]


def test_of_a_folder_with_others_only_the_checkpoint_is_put_aside(tmp_path: Path) -> None:
    files = CheckpointFiles()
    files.assignment = assignment(checkpoint_dir=str(tmp_path))
    best = tmp_path / "best"
    for step in (10, 15):
        committed(best, step)
    lies = files.quarantine(str(best), "step-15", "damaged")
    assert lies == str(best / ".quarantine" / "step-15.1")
    assert (best / "step-10").is_dir()
