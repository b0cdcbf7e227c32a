"""Which variables are read while something is imported."""

from __future__ import annotations

import os

import pytest

from orchestrator.rank.launch import preload
from orchestrator.rank.launch.preload import Preloaded, library


def test_every_way_to_read_a_variable_is_seen_and_a_copy_of_all_reads_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THERE", "1")
    with preload._watched_environment() as seen:
        assert os.environ["THERE"] == "1"
        assert os.environ.get("BY_GET") is None
        assert os.getenv("BY_GETENV") is None
        assert "BY_IN" not in os.environ
        assert os.environb.get(b"BY_BYTES") is None
        dict(os.environ.items())
        os.environ.copy()
        list(os.environ.values())
        list(os.environ)
    assert {name for name, _ in seen} == {"THERE", "BY_GET", "BY_GETENV", "BY_IN", "BY_BYTES"}
    assert {reader for _, reader in seen} == {__name__}
    os.environ.get("LATER")
    assert "LATER" not in {name for name, _ in seen}


def test_what_each_rank_has_another_of_is_named_unless_it_is_told_again() -> None:
    of_lightning = ("RANK", "lightning.fabric.utilities.rank_zero")
    assert preload._told_to_each([of_lightning, ("HOME", "anybody"), ("MY_RANKING", "anybody")]) is None
    reason = preload._told_to_each([of_lightning, ("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_RANK", "x")])
    assert reason == "it reads LOCAL_RANK, TORCHELASTIC_RUN_ID when it is imported, and each rank has its own"


def test_a_rank_is_compared_by_what_was_read_only() -> None:
    told = Preloaded(("good",), 1.0, {}, {"HF_HOME": "/a", "HF_TOKEN": None})
    assert told.unlike({"HF_HOME": "/a", "OTHER": "x"}) == []
    assert told.unlike({"HF_TOKEN": "hush"}) == ["HF_HOME", "HF_TOKEN"]
    assert "hush" not in repr(Preloaded(read={"HF_TOKEN": "hush"}))


def test_the_library_of_a_name() -> None:
    names = ("transformers:Trainer,set_seed?~", "lightning.pytorch:Trainer~", "torch._dynamo?", "json")
    assert [library(name) for name in names] == ["transformers", "lightning", "torch", "json"]
