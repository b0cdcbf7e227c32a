"""One way from words to a configuration, and one kind of error on it."""

from __future__ import annotations

import pytest
from hydra.core.config_store import ConfigStore

import orchestrator as orc
from orchestrator.cli import cli
from orchestrator.config import load
from orchestrator.config.composing import composed

WRONG = [
    "job.stepz=5", "job=nope", "job.steps=abc", "model=null", "job.steps=5,6", "job.steps=[[", "=3", "job",
    "+gpu=cpu", "hydra.mode=nope",
]  # fmt: skip


@pytest.mark.parametrize("word", WRONG)
def test_the_command_line_and_a_program_are_told_the_same(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "job=tiny_gpt", word]) == 2
    told = capsys.readouterr().err
    with pytest.raises(orc.ConfigError) as refused:
        orc.compose("job=tiny_gpt", word)
    assert " ".join(told.split()) == f"error: {' '.join(str(refused.value).split())}"


def test_what_nobody_thought_of_is_refused_and_no_reason_to_compose_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def fails(words: list[str]) -> None:
        asked.append(words)
        raise LookupError("an error\nof a library")

    monkeypatch.setattr(load, "hydra_composes", fails)
    told = r"cannot be composed \(LookupError: an error of a library\); leave out one KEY=VALUE"
    with pytest.raises(orc.ConfigError, match=told):
        composed(["job=tiny_gpt"])
    assert cli.main(["plan", "job=tiny_gpt"]) == 2
    assert len(asked) == 2


def test_code_in_the_words_is_refused_before_hydra_sees_them() -> None:
    with pytest.raises(orc.ConfigError, match="would run code; remove the key"):
        composed(["+hydra.callbacks.mine._target_=os.system"])


def test_nodes_are_made_of_the_schema_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load.register()
    stored: list[object] = []
    monkeypatch.setattr(ConfigStore.instance(), "store", lambda **asked: stored.append(asked))
    load.register()
    assert stored == []
