"""The training job as a user starts it: launchers, ZeRO stages, stop and resume."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.real.pretrain.runs import (
    DEADLINE_S,
    SCRIPT,
    Result,
    Runner,
    deepspeed_json,
    json_lines,
    loss_curve,
    losses,
    on,
)
from tests.support.ports import free_port
from tests.support.processes import end

pytestmark = pytest.mark.real

# --- real launchers -----------------------------------------------------------------------------


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:  # or its number may be somebody else's
            launcher = psutil.Process(process.pid)
            end(*launcher.children(recursive=True), launcher)
        process.communicate()


def torchrun(*flags: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    return [sys.executable, *launcher, str(SCRIPT), *flags]


def test_under_torchrun_a_stopped_and_resumed_run_is_bitwise_the_uninterrupted_one(
    run: Runner, workplace: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    config = deepspeed_json(workplace, "torchrun", zero_optimization={"stage": 2})
    flags = on(workplace, config, "--steps=150", "--val_every=25", "--sample_tokens=8")

    straight = run(flags)  # without torchrun, whose start would be the most of it
    assert straight.codes == [0, 0], straight.err
    expected = straight.out[0]
    curve = losses(expected)
    assert list(curve) == list(range(1, 151))
    assert curve[1][0] > 5.4
    assert curve[150][0] < 2.0
    validation = [line["val_loss"] for line in json_lines(expected) if "val_loss" in line]
    assert validation[-1] < 2.0 < validation[0]
    assert "--- sample after step 150 ---\ndef " in expected

    saving = [*flags, f"--checkpoint_dir={tmp_path / 'checkpoints'}", "--checkpoint_every=10"]
    with started(torchrun(*saving), environment, tmp_path) as interrupted:
        before = ""
        for line in interrupted.stdout:
            before += line
            if line.startswith('{"step": 5,'):
                break
        ranks = psutil.Process(interrupted.pid).children()
        (told,) = [rank for rank in ranks if rank.environ().get("RANK") == "1"]
        told.send_signal(signal.SIGTERM)
        before += interrupted.communicate(timeout=DEADLINE_S)[0]
    assert interrupted.returncode == 0, before
    stop = max(losses(before))
    assert 5 <= stop < 150
    assert f"stopped by SIGTERM after step {stop}/150, saved in" in before
    assert (tmp_path / "checkpoints" / "latest").read_text() == f"step-{stop:06d}"

    with started(torchrun(*saving), environment, tmp_path) as resumed:
        after, _ = resumed.communicate(timeout=DEADLINE_S)
    assert resumed.returncode == 0, after
    assert f"resumed from step {stop}\n" in after
    assert min(losses(after)) == stop + 1
    assert losses(before) | losses(after) == curve


def test_under_the_deepspeed_launcher(workplace: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """On a CPU machine the launcher takes LOCAL_SIZE for the number of devices."""
    config = deepspeed_json(workplace, "launcher", zero_optimization={"stage": 1})
    launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus=2", f"--master_port={free_port()}"]
    flags = on(workplace, config, "--steps=3", "--sample_tokens=0", "--deepspeed")
    command = [sys.executable, *launcher, str(SCRIPT), *flags]
    with started(command, {**environment, "LOCAL_SIZE": "2"}, tmp_path) as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert "dp 2," in output
    assert list(losses(output)) == [1, 2, 3]


# --- ranks forked from one import ---------------------------------------------------------------


@pytest.fixture(scope="module")
def one_rank(run: Runner, workplace: Path) -> Result:
    """The same training without any launcher or ZeRO, in one process."""
    config = deepspeed_json(workplace, "one-rank", gradient_accumulation_steps=2)
    result = run(on(workplace, config, "--steps=8", "--sample_tokens=0"), ranks=1)
    assert result.codes == [0], result.err
    assert "dp 1, 8 x 32 tokens a step, from step 0" in result.out[0]
    return result


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_trains_the_same_model_and_resumes_bitwise(
    run: Runner, workplace: Path, one_rank: Result, tmp_path: Path, stage: int
) -> None:
    config = deepspeed_json(workplace, f"zero{stage}", zero_optimization={"stage": stage})
    saving = ["--checkpoint_every=4", "--checkpoint_keep=2", f"--checkpoint_dir={tmp_path}"]
    flags = on(workplace, config, "--steps=8", "--val_every=4", "--sample_tokens=4", *saving)
    straight = run(flags)
    (tmp_path / "latest").write_text("step-000004")
    resumed = run(flags)
    for result in (straight, resumed):
        assert result.codes == [0, 0], result.err
        assert result.err == ["", ""]
        assert result.out[1] == "", "only rank 0 speaks"
    assert "resumed from step 4\n" in resumed.out[0]
    assert loss_curve(resumed) == loss_curve(straight)[4:]
    assert loss_curve(straight) == pytest.approx(loss_curve(one_rank), rel=1e-3)
    assert loss_curve(straight)[-1] < loss_curve(straight)[0] - 0.5
    assert (tmp_path / "latest").read_text() == "step-000008"
    sampled = straight.out[0].partition("--- sample")[2]
    assert sampled == resumed.out[0].partition("--- sample")[2] != ""


def test_bf16_with_accumulation_and_activation_checkpointing(run: Runner, workplace: Path) -> None:
    settings = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2}
    config = deepspeed_json(
        workplace, "bf16", **settings, bf16={"enabled": True}, zero_optimization={"stage": 3}
    )
    flags = ["--steps=8", "--sample_tokens=0", "--activation_checkpointing=true", "--tie_embeddings=false"]
    result = run(on(workplace, config, *flags))
    assert result.codes == [0, 0], result.err
    assert loss_curve(result)[-1] < loss_curve(result)[0] - 0.5


def test_an_optimizer_and_scheduler_in_the_deepspeed_json_win(run: Runner, workplace: Path) -> None:
    schedule = {"warmup_min_lr": 0.125, "warmup_max_lr": 0.125, "warmup_num_steps": 2}
    config = deepspeed_json(
        workplace,
        "own-optimizer",
        optimizer={"type": "SGD", "params": {"lr": 0.125}},
        scheduler={"type": "WarmupLR", "params": schedule},
    )
    result = run(on(workplace, config, "--steps=2", "--sample_tokens=0"))
    assert result.codes == [0, 0], result.err
    assert [line["lr"] for line in json_lines(result.out[0]) if "lr" in line] == [0.125, 0.125]


def test_old_checkpoints_go_and_an_unfinished_first_save_is_started_over(
    run: Runner, workplace: Path, tmp_path: Path
) -> None:
    config = deepspeed_json(workplace, "prune")
    (tmp_path / "step-000002").mkdir()
    (tmp_path / "step-000002" / "half_a_file.pt").write_bytes(b"torn")
    saving = ["--checkpoint_every=2", "--checkpoint_keep=2", f"--checkpoint_dir={tmp_path}"]
    result = run(on(workplace, config, "--steps=7", "--sample_tokens=0", *saving))
    assert result.codes == [0, 0], result.err
    assert "has no 'latest' and only an unfinished step-000002: starting at step 0" in result.out[0]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000006", "step-000007"]
    assert (tmp_path / "latest").read_text() == "step-000007"


# --- when it saves, what it skips ----------------------------------------------------------------


@pytest.mark.parametrize("clock", ["ahead", "stopped"])
def test_ranks_save_and_stop_after_the_same_step_whatever_one_ranks_clock_says(
    run: Runner, clock: str
) -> None:
    """Rank 0's clock is due before steps 6, 12, 18 and 24, and each vote is read when its step is done."""
    result = run([clock, "0"], script="votes.py")
    assert result.codes == [0, 0], result.err
    assert [json.loads(out) for out in result.out] == [{"saved": [6, 12, 18, 24], "stopped": 24}] * 2
    result = run([clock, "15"], script="votes.py")
    assert result.codes == [0, 0], result.err
    assert [json.loads(out) for out in result.out] == [{"saved": [6, 12], "stopped": 15}] * 2


def test_saves_by_the_clock_resume_bitwise(run: Runner, workplace: Path, tmp_path: Path) -> None:
    config = deepspeed_json(workplace, "timed", zero_optimization={"stage": 1})
    saving = ["--checkpoint_every=0.05s", "--checkpoint_keep=0", f"--checkpoint_dir={tmp_path}"]
    flags = on(workplace, config, "--steps=12", "--val_every=0", "--sample_tokens=0", *saving)
    straight = run(flags)
    assert straight.codes == [0, 0], straight.err
    tags = sorted(path.parent.name for path in tmp_path.glob("step-*/job.json"))
    assert tags == sorted(path.name for path in tmp_path.glob("step-*"))
    assert len(tags) > 1
    assert tags[-1] == "step-000012"
    (tmp_path / "latest").write_text(tags[-2])
    resumed = run(flags)
    assert resumed.codes == [0, 0], resumed.err
    step = int(tags[-2].removeprefix("step-"))
    assert f"resumed from step {step}\n" in resumed.out[0]
    assert loss_curve(resumed) == loss_curve(straight)[step:]


def test_auto_measures_a_save_early_and_goes_on_from_there(
    run: Runner, workplace: Path, tmp_path: Path
) -> None:
    """With a failure every microsecond it saves as often as it may; with the usual ones once."""
    config = deepspeed_json(workplace, "auto")
    flags = on(workplace, config, "--steps=20", "--val_every=0", "--sample_tokens=0", "--checkpoint_keep=0")
    for mtbf, expected in (("1e-6", [11, 17, 20]), ("0", [11, 20])):
        saving = ["--checkpoint_every=auto", f"--mtbf_s={mtbf}", f"--checkpoint_dir={tmp_path / mtbf}"]
        result = run([*flags, *saving])
        assert result.codes == [0, 0], result.err
        assert sorted(int(path.name[5:]) for path in (tmp_path / mtbf).glob("step-*")) == expected
    assert " s, a failure is expected every 25,350.0 h: saving every " in result.out[0]


def test_skipped_batches_are_left_out_bitwise_over_a_resume(
    run: Runner, workplace: Path, one_rank: Result, tmp_path: Path
) -> None:
    config = deepspeed_json(workplace, "skips", zero_optimization={"stage": 2})
    saving = ["--checkpoint_every=1", "--checkpoint_keep=0", f"--checkpoint_dir={tmp_path}"]
    flags = on(workplace, config, "--steps=6", "--sample_tokens=0", "--skip_batches=2,5,6", *saving)
    straight = run(flags)
    assert straight.codes == [0, 0], straight.err
    assert "step 3 skips samples 16 to 23: --skip_batches\n" in straight.out[0]
    assert "step 5 skips samples 40 to 55: --skip_batches\n" in straight.out[0]
    places = [
        json.loads(path.read_text())["consumed_samples"] for path in sorted(tmp_path.glob("step-*/job.json"))
    ]
    assert places == [8, 16, 32, 40, 64, 72]
    whole = loss_curve(one_rank)
    assert loss_curve(straight)[:2] == pytest.approx(whole[:2], rel=1e-3)
    assert loss_curve(straight)[2] != pytest.approx(whole[2], rel=1e-3)
    (tmp_path / "latest").write_text("step-000004")
    resumed = run(flags)
    assert resumed.codes == [0, 0], resumed.err
    assert loss_curve(resumed) == loss_curve(straight)[4:]


def test_an_engine_that_stages_in_memory_is_believed_before_the_disk(
    run: Runner, workplace: Path, tmp_path: Path
) -> None:
    config = deepspeed_json(workplace, "staged", zero_optimization={"stage": 1})
    disk, memory = tmp_path / "disk", tmp_path / "memory"
    flags = on(
        workplace,
        config,
        "--steps=8",
        "--sample_tokens=0",
        "--checkpoint_every=2",
        f"--checkpoint_dir={disk}",
    )
    straight = run(flags, script="staged.py")
    assert straight.codes == [0, 0], straight.err
    assert "from step 0\n" in straight.out[0]
    assert straight.out[1] == "", "nothing to load is nothing to warn of"
    assert len(list(memory.glob("step-*"))) == 4
    assert not disk.exists()

    # What the disk has is older, damaged or gone: none of it counts as long as the engine has something.
    (memory / "latest").write_text("step-000006")
    (disk / "step-000008").mkdir(parents=True)
    (disk / "step-000008" / "manifest.json").write_text("{}")
    (disk / "latest").write_text("step-000007")
    resumed = run(flags, script="staged.py")
    assert resumed.codes == [0, 0], resumed.err
    assert "resumed from step 6\n" in resumed.out[0]
    assert loss_curve(resumed) == loss_curve(straight)[6:]
    assert (disk / "step-000008" / "manifest.json").exists(), "what was committed is not the job's to remove"

    shutil.rmtree(disk)
    memory.rename(disk)
    (disk / "latest").unlink()
    for tag in ("step-000002", "step-000004"):
        (disk / tag / "manifest.json").write_text("{}")
    resumed = run(flags, script="staged.py")
    assert resumed.codes == [0, 0], resumed.err
    assert "has no 'latest': taking step-000004, the newest complete one" in resumed.out[0]
    assert "resumed from step 4\n" in resumed.out[0]
    assert loss_curve(resumed) == loss_curve(straight)[4:]
