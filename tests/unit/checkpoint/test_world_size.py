"""Which checkpoints a number of ranks can load, and how one that it cannot is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoint.manifest import FilePart, Manifest
from orchestrator.checkpoint.world_size import loads_any_number, misfit, newest_in
from orchestrator.config.composing import compose
from orchestrator.driver.preflight import plan_of
from orchestrator.errors import ConfigError
from tests.support.snapshot_world import OPTIMIZER, WEIGHTS

CPU = ("gpu=cpu", "job=script", "job.script=train.py")


def manifest(ranks: int, *names: str, step: int = 60) -> Manifest:
    files = {name: FilePart("0" * 64, 1, 0) for name in names}
    return Manifest("two", 1, step, f"s{step}", ranks, 1.0, files)


def laid(folder: Path, one: Manifest) -> None:
    (folder / one.tag).mkdir(parents=True)
    (folder / one.tag / "manifest.json").write_text(one.to_json())


ZERO_OF_2 = manifest(2, WEIGHTS, OPTIMIZER.format(0), OPTIMIZER.format(1))


@pytest.mark.parametrize(
    ("one", "ranks", "fits"),
    [
        (ZERO_OF_2, 2, True),
        (ZERO_OF_2, 1, False),
        (ZERO_OF_2, 4, False),
        (manifest(2, WEIGHTS), 1, True),
        (manifest(2, WEIGHTS), 4, True),
        (manifest(4, WEIGHTS, "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), 2, False),
        (manifest(4, WEIGHTS, "expp_rank_1_mp_rank_00_optim_states.pt"), 2, False),
        (manifest(1, "zero_pp_rank_0_mp_rank_00_model_states.pt"), 2, False),
    ],
)
def test_parts_of_zero_are_for_as_many_ranks_as_wrote_them(one: Manifest, ranks: int, fits: bool) -> None:
    why = misfit(one, ranks)
    assert (why is None) is fits
    assert why is None or f"{one.world_size} rank" in why


@pytest.mark.parametrize(
    ("deepspeed", "any_number"),
    [
        ({}, False),
        ({"checkpoint": {"load_universal": True}}, True),
        ({"checkpoint": {"load_universal": False}, "zero_optimization": None}, False),
        ({"zero_optimization": {"stage": 1, "elastic_checkpoint": True}}, True),
    ],
)
def test_deepspeed_may_be_asked_to_load_any_number(deepspeed: dict[str, Any], any_number: bool) -> None:
    assert loads_any_number(deepspeed) is any_number


def test_a_checkpoint_in_a_folder_of_its_own_is_found_too(tmp_path: Path) -> None:
    assert newest_in(tmp_path / "none") is None
    laid(tmp_path, manifest(2, WEIGHTS, step=5))
    laid(tmp_path / "checkpoint-10", manifest(2, WEIGHTS, step=10))
    laid(tmp_path / ".quarantine", manifest(2, WEIGHTS, step=15))
    found = newest_in(tmp_path)
    assert found is not None
    assert (found[0], found[1].step) == (tmp_path / "checkpoint-10", 10)


def planned(folder: Path, *words: str) -> None:
    (folder / "train.py").touch()
    plan_of(compose(*CPU, f"job.cwd={folder}", f"job.checkpoint_dir={folder}/kept", *words), observed=False)


def test_another_number_of_ranks_is_refused_by_the_plan(tmp_path: Path) -> None:
    laid(tmp_path / "kept", ZERO_OF_2)
    planned(tmp_path, "job.ranks=2")
    with pytest.raises(ConfigError) as refused:
        planned(tmp_path, "job.ranks=1")
    message = str(refused.value)
    assert message.startswith(
        f"job.ranks=1: cannot go on from {tmp_path}/kept/s60, the checkpoint of step 60: "
    )
    for part in ("2 ranks wrote it", "this run has 1 rank", "set job.ranks=2", "load_universal=true"):
        assert part in message
    assert "\n" not in message


def test_what_is_converted_or_not_ours_to_lead_is_not_refused(tmp_path: Path) -> None:
    laid(tmp_path / "kept", ZERO_OF_2)
    planned(tmp_path, "job.ranks=1", "snapshot.enabled=false")
    planned(tmp_path, "job.ranks=1", "+deepspeed.checkpoint.load_universal=true")
    (tmp_path / "kept" / "latest_universal").write_text("s60_universal")
    planned(tmp_path, "job.ranks=1")
