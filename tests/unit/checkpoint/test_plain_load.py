"""Loading what may be somebody else's: tensors and plain values come through, and nothing is run."""

from __future__ import annotations

import argparse
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.checkpoint.plain_load import UnknownTypesError, plain_load


class Runs:
    """Makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self._folder), 0o777, True)


class Position:
    """A script's own."""

    step = 3


class Other:
    pass


def saved(path: Path, value: Any, **how: Any) -> str:
    torch.save({"w": torch.ones(3), "state": value}, path, **how)
    return str(path)


def test_what_scripts_keep_beside_their_weights_comes_through(tmp_path: Path) -> None:
    state = {
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.95)),
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "order": OrderedDict(a=1),
        "folder": Path("a/b"),
        "steps": {1, 2},
        "loss": np.float64(0.5),
    }
    came = plain_load(saved(tmp_path / "x.pt", state), "cpu")["state"]
    assert {k: v for k, v in came.items() if k != "torch"} == {k: v for k, v in state.items() if k != "torch"}
    assert torch.equal(came["torch"], state["torch"])
    kind, words, *rest = np.random.get_state()
    came = plain_load(saved(tmp_path / "x.pt", (kind, words, *rest)), "cpu")["state"]
    assert (came[0], list(came[1]), list(came[2:])) == (kind, list(words), rest)


def test_a_file_as_older_torch_wrote_it_is_loaded_and_runs_nothing_either(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": 1}, _use_new_zipfile_serialization=False)
    assert plain_load(path, "cpu")["state"] == {"a": 1}
    path = saved(tmp_path / "x.pt", Runs(tmp_path / "made"), _use_new_zipfile_serialization=False)
    with pytest.raises(UnknownTypesError, match="torch does not load it by weights alone") as refusal:
        plain_load(path, "cpu")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "made").exists()


def test_another_type_is_named_before_anything_is_built(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", [Position(), Runs(tmp_path / "made")])
    with pytest.raises(
        UnknownTypesError, match=r"^it holds os.makedirs, tests.unit.checkpoint.test_plain_load.Position$"
    ) as refusal:
        plain_load(path, "cpu")
    assert refusal.value.allowable == [], "a function can do anything"
    assert not (tmp_path / "made").exists()
    assert isinstance(torch.load(path, weights_only=False)["state"][0], Position), (
        "a script's own loads are its own"
    )


def test_types_can_be_allowed_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", [Position(), Other()])
    with pytest.raises(UnknownTypesError, match="Other") as refusal:
        plain_load(path, "cpu", [f"{__name__}.Position"])
    assert refusal.value.allowable == [f"{__name__}.Other"]
    first, second = plain_load(path, "cpu", [f"{__name__}.Position", f"{__name__}.Other"])["state"]
    assert (type(first), type(second)) == (Position, Other)
    with pytest.raises(UnknownTypesError, match="Position"):
        plain_load(path, "cpu")
    with pytest.raises(
        ValueError, match=r"snapshot.allow_types: os.makedirs is no type, and calling it can do any"
    ):
        plain_load(path, "cpu", ["os.makedirs"])


@pytest.mark.parametrize("name", ["no_such_module.Kind", "argparse.Nothing", "argparse.Namespace.nothing"])
def test_a_name_of_nothing_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"snapshot.allow_types: there is no {name}; write"):
        plain_load(saved(tmp_path / "x.pt", 1), "cpu", [name])


def test_a_plain_pickle_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(Runs(tmp_path / "made"), protocol=2))
    with pytest.raises(UnknownTypesError):
        plain_load(str(path), "cpu")
    assert not (tmp_path / "made").exists()
