"""A few of the cases of :mod:`tests.fuzz.every_key`, the same every time; ``make nonsense`` has any number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import every_key

CASES = 16


def test_nonsense_for_any_key_is_a_plan_or_a_refusal_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done, wrong = every_key.look(seed=3, seconds=600.0, corpus=tmp_path / "corpus.txt", most=CASES)
    assert wrong == []
    assert done == CASES
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"], "nothing was started or written"


def test_what_is_neither_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(_words: list[str]) -> int:
        raise ZeroDivisionError

    for does, said in ((crashes, "ZeroDivisionError"), (lambda _words: 1, "exit 1")):
        monkeypatch.setattr(every_key, "orchestrator", does)
        assert said in str(every_key.what_is_wrong("job.steps", ["plan"], tmp_path))
