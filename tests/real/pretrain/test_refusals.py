"""What the main job refuses, in one line: settings that cannot work, checkpoints that are not its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.real.pretrain.runs import (
    Result,
    Runner,
    deepspeed_json,
    losses,
    on,
)

pytestmark = pytest.mark.real


def refusal(result: Result) -> str:
    """The one line every rank wrote on its way out with status 2."""
    assert set(result.codes) == {2}, (result.codes, result.err)
    assert all(out == "" for out in result.out)
    (line,) = set(result.err)
    assert line.startswith("pretrain: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--data=/absent/text", "--data=/absent/text names no file: give an existing file"),
        ("--data={place}/void.txt", "void.txt is empty (1 files, 0 bytes): name other text"),
        ("--data={place}/short.txt", "tokens and --seq_len=32 needs 33: add text or shorten"),
        ("--val_fraction=0.0001", "holds out 8 tokens and --seq_len=32 needs 33: raise it"),
        ("--val_fraction=1.5", "--val_fraction=1.5 must be at least 0 and below 1"),
        ("--data_cache={place}/void.txt/cache", "Not a directory; see to --data or --data_cache"),
        ("--vocab=256", "--vocab=256 is less than the 257 of the tokenizer: raise it"),
        ("--heads=3", "hidden=32 must be a multiple of 2 x heads=6"),
        ("--deepspeed_config={place}/absent.json", "absent.json: No such file or directory; give the path"),
        ("--deepspeed_config={place}/void.txt", "is not JSON"),
        ("--deepspeed_config={place}/list.json", "holds a list: it must be a JSON object"),
        ("--deepspeed_config={place}/batch.json", "does not hold together: Check batch related parameters"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(
    run: Runner, workplace: Path, flag: str, message: str
) -> None:
    (workplace / "void.txt").touch()
    (workplace / "short.txt").write_text("too short")
    (workplace / "list.json").write_text("[]")
    (workplace / "batch.json").write_text('{"train_batch_size": 7, "train_micro_batch_size_per_gpu": 4}')
    config = deepspeed_json(workplace, "refused")
    result = run([*on(workplace, config, "--steps=1"), flag.format(place=workplace)], ranks=1)
    assert message in refusal(result)


@pytest.fixture(scope="module")
def saved(run: Runner, workplace: Path) -> tuple[list[str], Path]:
    """Flags of a finished two-step job and its checkpoint directory."""
    directory = workplace / "saved"
    config = deepspeed_json(workplace, "saved", zero_optimization={"stage": 1})
    flags = on(workplace, config, "--steps=2", "--sample_tokens=0", f"--checkpoint_dir={directory}")
    result = run(flags)
    assert result.codes == [0, 0], result.err
    return flags, directory


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--layers=3", "step-000002 has layers=2 but this job has layers=3: use the same settings"),
        ("--seed=5", "step-000002 has seed=1234 but this job has seed=5: use the same settings"),
        ("--val_fraction=0.2", "has train_windows="),
        ("--data={place}/text/first.txt", "has corpus="),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(
    run: Runner, workplace: Path, saved: tuple[list[str], Path], flag: str, message: str
) -> None:
    flags, _ = saved
    assert message in refusal(run([*flags, flag.format(place=workplace)]))


def test_the_identity_inside_the_checkpoint_counts_when_its_job_file_is_gone(
    run: Runner, saved: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, directory = saved
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "step-000002" / "job.json").unlink()
    result = run([*flags, f"--checkpoint_dir={copy}", "--seed=5"])
    assert "has seed=1234 but this job has seed=5" in refusal(result)


def test_latest_that_names_a_lost_checkpoint_is_refused(
    run: Runner, saved: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, directory = saved
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "latest").write_text("step-000009")
    result = run([*flags, f"--checkpoint_dir={copy}"])
    line = refusal(result)
    assert "latest names 'step-000009', which is not there" in line
    assert "(complete: step-000002)" in line


def test_without_latest_the_newest_complete_checkpoint_is_taken(
    run: Runner, saved: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, directory = saved
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "latest").unlink()
    result = run([*flags, f"--checkpoint_dir={copy}", "--steps=3"])
    assert result.codes == [0, 0], result.err
    assert "has no 'latest': taking step-000002, the newest complete one" in result.out[0]
    assert list(losses(result.out[0])) == [3]


def test_a_checkpoint_sharded_for_other_ranks_is_refused_with_the_way_out(
    run: Runner, workplace: Path, saved: tuple[list[str], Path]
) -> None:
    flags, _ = saved
    config = deepspeed_json(workplace, "three", train_batch_size=12, zero_optimization={"stage": 1})
    line = refusal(run([*flags, config], ranks=3))
    assert "used a DP world size of 2 but the current world size is 3" in line
    assert "ds_to_universal" in line


def test_ranks_that_see_different_checkpoints_refuse_to_start(
    run: Runner, saved: tuple[list[str], Path], tmp_path: Path
) -> None:
    """A directory on each node's own disk: rank 1 finds nothing where rank 0 finds step 2."""
    flags, directory = saved
    (tmp_path / "0").symlink_to(directory)
    result = run([*flags, f"--checkpoint_dir={tmp_path}/RANK"])
    assert result.codes == [2, 2], result.err
    assert "ranks disagree on the step to resume from (-1 is none): -1 to 2, here 2" in result.err[0]
    assert "-1 to 2, here -1; --checkpoint_dir=" in result.err[1]
