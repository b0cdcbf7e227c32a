"""Corpus, provenance, redaction and the run directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import papers
from orchestrator.agent import facts
from orchestrator.agent.corpus import survey
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.ledger.run_directory import RunDirectory, new_run_name
from orchestrator.redact import HIDDEN, redact


def test_the_default_corpus_is_on_every_machine() -> None:
    found = survey(["stdlib"], Path("/"))
    assert found.files > 500
    assert found.size_bytes > 5_000_000
    assert survey(["stdlib"], Path("/tmp")) == found


def test_files_directories_and_globs_are_found_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "books/deep").mkdir(parents=True)
    (tmp_path / "books/a.txt").write_text("aaa")
    (tmp_path / "books/deep/b.txt").write_text("bb")
    (tmp_path / "books/.hidden").write_text("no")
    assert survey(["books"], tmp_path).size_bytes == 5
    assert survey(["books/a.txt"], tmp_path).files == 1
    assert survey(["books/**/*.txt"], tmp_path).files == 2
    assert survey([str(tmp_path / "books")], Path("/")).fingerprint == survey(["books"], tmp_path).fingerprint


def test_other_text_of_the_same_size_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = survey(["a.txt"], tmp_path)
    (tmp_path / "a.txt").write_text("two")
    assert survey(["a.txt"], tmp_path).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("content", "sources", "expected"),
    [
        (None, ["absent"], "job.corpus: 'absent' names no file"),
        ("", ["a.txt"], "job.corpus: a.txt holds 0 bytes in 1 file, but one sequence needs 257"),
        ("short", ["a.txt"], "holds 5 bytes in 1 file, but one sequence needs 257; give more text"),
    ],
)
def test_text_that_cannot_train_is_refused(
    tmp_path: Path, content: str | None, sources: list[str], expected: str
) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ConfigError, match=r"job\.corpus") as caught:
        survey(sources, tmp_path, least_bytes=257)
    assert expected in str(caught.value)


def test_a_changed_script_or_neighbour_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import model")
    (tmp_path / "model.py").write_text("x = 1")
    before = facts.observe(tmp_path / "train.py", [], tmp_path)
    assert facts.differences(before, before) == []
    (tmp_path / "model.py").write_text("x = 2")
    after = facts.observe(tmp_path / "train.py", [], tmp_path)
    (difference,) = facts.differences(before, after)
    assert difference.startswith("script sha256: '")


def test_absent_packages_and_facts_are_said_not_raised() -> None:
    assert facts.package_version("no-such-package-at-all") == "not installed"
    assert facts.differences({"package torch": "2.13"}, {}) == [
        "package torch: 'unknown' there, '2.13' in the plan"
    ]


def test_secrets_are_hidden_and_training_words_are_not() -> None:
    shown = redact(
        {
            "env": {"HF_TOKEN": "hf_1", "WANDB_API_KEY": "k", "NCCL_DEBUG": "INFO"},
            "tracking": {"uri": "https://user:hunter2@mlflow.example:443/x"},
            "job": {"tokenizer": "bytes", "max_tokens": 5, "sample_tokens": 200},
            "list": ["postgresql://me:pw@db/x"],
        }
    )
    assert shown == {
        "env": {"HF_TOKEN": HIDDEN, "WANDB_API_KEY": HIDDEN, "NCCL_DEBUG": "INFO"},
        "tracking": {"uri": f"https://user:{HIDDEN}@mlflow.example:443/x"},
        "job": {"tokenizer": "bytes", "max_tokens": 5, "sample_tokens": 200},
        "list": [f"postgresql://me:{HIDDEN}@db/x"],
    }


def test_run_names_are_unique() -> None:
    assert len({new_run_name("job") for _ in range(500)}) == 500
    # MLflow's tables and legends cut a name after some twenty characters.
    assert len({new_run_name("a_long_name_of_a_job")[:20] for _ in range(20)}) == 20


def test_a_run_directory_is_held_by_one_live_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.ledger.run_directory import RunDirectory\n"
        "held = RunDirectory(Path(sys.argv[1])); held.hold(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError, match=f"held by another live run .process {holder.pid}."):
            RunDirectory(tmp_path / "run").hold()
        holder.kill()
    directory = RunDirectory(tmp_path / "run")
    directory.hold()
    directory.release()


def test_an_earlier_runs_journal_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")
    with pytest.raises(RunDirectoryError, match="holds an earlier run's journal"):
        RunDirectory(tmp_path).hold()


def test_an_unwritable_place_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory(blocker / "run").hold()


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path)
    directory.write("plan.txt", "one")
    monkeypatch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        directory.write("plan.txt", "two")
    assert (tmp_path / "plan.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e9", 1e9), ("2.5E3", 2500.0), ("-1_0e-2", -0.1), ("1e", "1e"), ("'1e9'", "1e9"), ("12e4x", "12e4x")],
)
def test_a_number_of_yaml_may_have_an_exponent_without_a_point(text: str, value: object) -> None:
    assert papers.yaml_of(f"usd: {text}") == {"usd": value}
