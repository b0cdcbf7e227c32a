"""The probes on DeepSpeed itself: what is told is what an unchanged script sees."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.rank.launch.launcher import ExecLauncher, ZygoteLauncher
from orchestrator.rank.messages import (
    Heartbeat,
    Loaded,
    LoadFailed,
    PhaseBegun,
    PhaseEnded,
    ProbeFailed,
    Saved,
    SaveFailed,
    ScriptFailed,
    StepTaken,
)
from tests.support.folders import SCRIPTS
from tests.support.rank_harness import Bench, Outcome, environment, wait_until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteLauncher]:
    launcher = ZygoteLauncher(environment(), log_path=str(tmp_path_factory.mktemp("zygote") / "log"))
    yield launcher
    launcher.close()


@pytest.fixture
def bench(zygote: ZygoteLauncher, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(zygote, tmp_path, environment())
    yield made
    made.clear()


def train(bench: Bench, *args: str) -> list[Outcome]:
    ranks = bench.start_world(str(SCRIPTS / "trains.py"), *args)
    outcomes = [bench.finish(rank) for rank in ranks]
    for outcome in outcomes:
        assert outcome.status == 0, outcome.output
        assert "built successfully" not in outcome.output
        assert outcome.of(ProbeFailed) == []
    return outcomes


def agree(outcome: Outcome, last_step: int) -> None:
    """The messages say what the script has printed."""
    printed = [line.split() for line in outcome.output.splitlines() if line.startswith("step ")]
    steps = outcome.of(StepTaken)
    assert steps[-1].step == last_step
    assert [str(step.step) for step in steps] == [words[1] for words in printed][-len(steps) :]
    for step, words in zip(steps, printed[-len(steps) :], strict=True):
        assert step.loss == pytest.approx(float(words[2]), rel=1e-6)
        assert step.lr == pytest.approx(float(words[3]), rel=1e-9)
        assert step.grad_norm > 0


def test_deepspeed_steps_saves_and_resumes_are_told_as_they_are(bench: Bench) -> None:
    folder = str(bench.folder / "ckpt")
    for outcome in train(bench, "--micro-batches", "2", "--save", folder):
        agree(outcome, 3)
        (end,) = outcome.of(Saved)
        assert (end.tag, end.step, outcome.of(SaveFailed)) == ("global_step3", 3, [])
        assert [phase.phase for phase in outcome.of(PhaseBegun)] == ["import", "initialize", "exit"]
        assert [phase.phase for phase in outcome.of(PhaseEnded)] == ["initialize", "first_step"]
    for outcome in train(bench, "--micro-batches", "2", "--load", folder, "--steps", "2"):
        (end,) = outcome.of(Loaded)
        assert (end.tag, end.step, outcome.of(LoadFailed)) == ("global_step3", 3, [])
        assert [step.step for step in outcome.of(StepTaken)] == [4, 5]
        agree(outcome, 5)


@pytest.mark.parametrize(
    "args", [["--stage", "1"], ["--stage", "3"], ["--stage", "1", "--pipeline", "--micro-batches", "2"]]
)
def test_other_engines_of_deepspeed_are_told_as_they_are(bench: Bench, args: list[str]) -> None:
    for outcome in train(bench, *args):
        agree(outcome, 3)


def test_a_first_step_comes_soon_after_the_go(bench: Bench) -> None:
    def seconds_to_first_step() -> float:
        begin = time.monotonic()
        ranks = bench.start_world(str(SCRIPTS / "trains.py"), "--steps", "1")
        waited_for = set(ranks)

        def all_have_stepped() -> bool:
            waited_for.difference_update(
                [rank for rank in waited_for if any(isinstance(one, StepTaken) for one in rank.messages())]
            )
            return not waited_for

        assert wait_until(all_have_stepped)
        took_s = time.monotonic() - begin
        assert [bench.finish(rank).status for rank in ranks] == [0, 0]
        return took_s

    # By exec it is ten seconds of imports. A busy machine may be slow once, not three times.
    assert min(seconds_to_first_step() for _ in range(3)) < 2.0


def test_a_script_that_imports_deepspeed_itself_is_probed_too(tmp_path: Path) -> None:
    bench = Bench(ExecLauncher(), tmp_path, environment())
    try:
        (outcome, _other) = train(bench)
        agree(outcome, 3)
        assert {"import", "initialize"} <= {beat.phase for beat in outcome.of(Heartbeat)}
    finally:
        bench.clear()


def changed(bench: Bench, before: str, *lines: str) -> str:
    """The script that trains, with lines added in front of one."""
    text = (SCRIPTS / "trains.py").read_text()
    assert text.count(before) == 1
    indent = " " * (text.index(before) - text.rindex("\n", 0, text.index(before)) - 1)
    text = text.replace(before, f"\n{indent}".join((*lines, before)))
    return bench.write(text.replace("import argparse", "import argparse\nimport time"))


def test_a_rank_with_slow_data_is_told_by_its_own_time_and_not_by_its_steps(bench: Bench) -> None:
    slow = changed(bench, "loss = square(engine(inputs), labels)", "time.sleep(0.1 * engine.global_rank)")
    outcomes = [
        bench.finish(rank) for rank in bench.start_world(slow, "--steps", "6", "--micro-batches", "2")
    ]
    local_time_s, step_s = (
        [statistics.median(getattr(step, key) for step in outcome.of(StepTaken)) for outcome in outcomes]
        for key in ("local_time_s", "step_time_s")
    )
    assert local_time_s[1] >= 0.2
    assert local_time_s[1] > 2 * local_time_s[0]
    assert step_s[0] == pytest.approx(step_s[1], rel=0.2)
    assert all(own <= step for own, step in zip(local_time_s, step_s, strict=True))


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        ([], ["engine.eval()", "for _ in range(50): engine(next(slow)[0])", "engine.train()"]),
        (["--pipeline", "--stage", "1"], ["for _ in range(50): engine.eval_batch(slow)"]),
    ],
    ids=["engine", "pipeline"],
)
def test_validation_is_a_phase_in_which_progress_is_made(
    bench: Bench, args: list[str], lines: list[str]
) -> None:
    slow = "slow = (time.sleep(0.05) or batch for batch in source)"
    script = changed(bench, 'print("step", engine.global_steps', slow, *lines)
    for outcome in [bench.finish(rank) for rank in bench.start_world(script, "--steps", "1", *args)]:
        assert (outcome.status, outcome.of(ProbeFailed)) == (0, []), outcome.output
        beats = [beat for beat in outcome.of(Heartbeat) if beat.phase == "validation"]
        assert len(beats) >= 2
        assert beats[0].progress < beats[-1].progress


def test_an_error_names_the_step_it_came_after(bench: Bench) -> None:
    text = (
        (SCRIPTS / "trains.py")
        .read_text()
        .replace("if args.save:", "raise ValueError('after three')\nif args.save:")
    )
    rank, other = bench.start_world(bench.write(text))
    outcome = bench.finish(rank)
    assert outcome.status == 1
    (error,) = outcome.of(ScriptFailed)
    assert (error.type, error.message, error.step) == ("ValueError", "after three", 3)
    other.kill()
    assert wait_until(lambda: other.poll() is not None)
