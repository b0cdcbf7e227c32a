"""What a script has saved without DeepSpeed: known to be whole by its own index, and chosen as a set."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.checkpoint.script_saves import ScriptSave, choose, look

State = dict[str, torch.Tensor]
STATE: State = {"w": torch.ones(100)}


def cut(path: Path) -> None:
    """As a rank that is killed leaves it."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def as_torch(path: Path) -> None:
    torch.save(STATE, path)


def as_safetensors(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(400))


def trainers(folder: Path, step: int, whole: bool = True) -> Path:
    """A folder as Trainer writes it without DeepSpeed."""
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    as_safetensors(made / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        as_torch(made / name)
    if whole:
        (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return made


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ckpt.pt", as_torch), ("last.ckpt", as_torch), ("model.bin", as_torch), ("m.safetensors", as_safetensors),
    ],
)  # fmt: skip
def test_a_file_that_is_cut_off_is_known_and_one_that_is_whole_too(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    (found,) = look(tmp_path)
    assert (found.name, found.step, found.torn) == (name, None, None)
    cut(tmp_path / name)
    (found,) = look(tmp_path)
    assert found.torn is not None
    (tmp_path / name).write_bytes(b"")
    assert look(tmp_path)[0].torn is not None


def test_a_folder_of_trainer_s_is_whole_with_what_it_writes_last(tmp_path: Path) -> None:
    trainers(tmp_path, 10)
    trainers(tmp_path, 15, whole=False)
    cut(trainers(tmp_path, 20) / "optimizer.pt")
    (trainers(tmp_path, 25) / "trainer_state.json").write_text('{"global_st')
    assert [(one.step, one.torn is None) for one in look(tmp_path)] == [
        (10, True), (15, False), (20, False), (25, False),
    ]  # fmt: skip
    assert look(tmp_path)[1].torn == "it has no trainer_state.json, which is written last"


def test_shards_and_distributed_checkpoints_are_held_to_their_own_index(tmp_path: Path) -> None:
    sharded, parts = tmp_path / "step_5", tmp_path / "iter_0000010"
    sharded.mkdir()
    parts.mkdir()
    as_safetensors(sharded / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    (parts / "__0_0.distcp").write_bytes(b"x")
    first, second = look(tmp_path)
    assert (first.step, first.torn) == (10, "it has no .metadata, which is written last")
    assert (second.step, second.torn) == (
        5, "model.safetensors.index.json names 'model-00002-of-00002.safetensors', which is not there",
    )  # fmt: skip
    as_safetensors(sharded / "model-00002-of-00002.safetensors")
    assert [one.torn for one in look(tmp_path)][1:] == [None]


@pytest.mark.parametrize(
    ("latest", "torn"),
    [
        ("global_step5", None), ("", "latest is empty"),
        ("global_st", "latest names 'global_st', which is not there"),
    ],
)  # fmt: skip
def test_what_deepspeed_finds_its_newest_by_has_to_lead_to_it(
    tmp_path: Path, latest: str, torn: str | None
) -> None:
    folder = tmp_path / "checkpoint-5"
    (folder / "global_step5").mkdir(parents=True)
    as_torch(folder / "global_step5" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text(latest)
    assert [one.torn for one in look(tmp_path)] == [torn]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_is_held_to_the_places_in_its_index(tmp_path: Path) -> None:
    folder = tmp_path / "step_5"
    dcp.save({"model": STATE, "step": 5}, checkpoint_id=folder, no_dist=True)
    assert [one.torn for one in look(tmp_path)] == [None]
    (part,) = folder.glob("*.distcp")
    size = part.stat().st_size
    cut(part)
    assert look(tmp_path)[0].torn == f"{part.name} has {part.stat().st_size:,} bytes of {size:,}"
    part.unlink()
    (folder / "__1_0.distcp").write_bytes(b"x")
    assert look(tmp_path)[0].torn == f".metadata names '{part.name}', which is not there"
    cut(folder / ".metadata")
    assert (look(tmp_path)[0].torn or "").startswith(".metadata cannot be read: ")


class Runs:
    """Does something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_the_code_that_an_index_names_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "step_5"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"x")
    data = pickle.dumps({"state": Runs(tmp_path / "ran")})
    (folder / ".metadata").write_bytes(data)
    assert [one.torn for one in look(tmp_path)] == [None]
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists(), "it would have been"


def test_what_was_saved_at_one_step_is_whole_as_one(tmp_path: Path) -> None:
    for step in (5, 10):
        for name in ("model", "optimizer"):
            as_torch(tmp_path / f"{name}_step_{step}.pt")
    cut(tmp_path / "optimizer_step_10.pt")
    whole, torn = choose(look(tmp_path), 0.0)
    assert whole is not None
    assert whole.name == "model_step_5.pt", "and not its optimizer, which is no newer"
    assert [(one.name, (one.torn or "").partition(":")[0]) for one in torn] == [
        ("model_step_10.pt", "optimizer_step_10.pt, of the same step, is not whole"),
        ("optimizer_step_10.pt", "optimizer_step_10.pt cannot be read"),
    ]  # fmt: skip


def test_the_part_of_a_rank_that_is_not_there_is_missed(tmp_path: Path) -> None:
    for name in ("step_5.rank0.pt", "step_5.rank1.pt", "step_10.rank0.pt"):
        as_torch(tmp_path / name)
    whole, (torn,) = choose(look(tmp_path), 0.0)
    assert whole is not None
    assert (whole.step, torn.step) == (5, 10)
    assert torn.torn == "it has nothing of rank 1, of which another step has"


def test_what_deepspeed_has_committed_and_what_is_no_checkpoint_is_left_out(tmp_path: Path) -> None:
    for name in (".quarantine", "tag", "logs"):
        (tmp_path / name).mkdir()
    as_torch(tmp_path / ".quarantine" / "ckpt.pt")
    as_torch(tmp_path / "tag" / "mp_rank_00_model_states.pt")
    (tmp_path / "tag" / "manifest.json").write_text("{}")
    (tmp_path / "logs" / "events.txt").write_text("")
    (tmp_path / "latest").write_text("tag")
    assert look(tmp_path) == look(tmp_path / "none") == []


def saved(name: str, step: int | None, time_s: float, torn: str | None = None) -> ScriptSave:
    return ScriptSave(name, step, time_s, torn)


def test_the_newest_whole_one_is_taken_and_torn_ones_after_it_are_in_the_way() -> None:
    ten, fifteen = saved("checkpoint-10", 10, 5.0), saved("checkpoint-15", 15, 6.0, "cut")
    five_torn = saved("checkpoint-5", 5, 4.0, "cut")
    assert choose([five_torn, fifteen, ten], 1.0) == (ten, [fifteen])
    assert choose([fifteen], 1.0) == (None, [fifteen])
    assert choose([ten, fifteen], 9.0) == (None, []), "another run's"
    best, last = saved("best.pt", None, 8.0), saved("last.pt", None, 7.0)
    assert choose([best, last], 1.0) == (last, [])
    assert choose([best], 1.0) == (best, [])
    assert choose([], 1.0) == (None, [])


def test_a_torn_one_is_moved_and_never_removed(tmp_path: Path) -> None:
    as_torch(tmp_path / "ckpt.pt")
    trainers(tmp_path, 15)
    files = CheckpointFiles()
    for name in ("ckpt.pt", "checkpoint-15"):
        before = sum(len(names) for _, _, names in os.walk(tmp_path))
        path = Path(files.put_aside(str(tmp_path), name, "cut off"))
        assert path == tmp_path / ".quarantine" / f"{name}.1"
        assert sum(len(names) for _, _, names in os.walk(tmp_path)) >= before
    assert (tmp_path / ".quarantine" / "checkpoint-15.1" / "reason.txt").read_text() == "cut off\n"
    assert files.script_saves(str(tmp_path)) == []
