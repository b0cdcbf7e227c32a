"""Calibration: what is fitted is what was put in, nothing gets worse by it, and the verb says what it left
out."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.cli import cli
from orchestrator.cli.show.calibration import show_calibrations, show_skipped
from orchestrator.config.schema import Config, PlannerConfig
from orchestrator.errors import ConfigError
from orchestrator.events import Status
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.perf.baseline import Nominal, group_of, nominal
from orchestrator.plan.perf.calibration import (
    COMMUNICATION,
    COMPUTE,
    KEPT,
    Calibration,
    Group,
    fit_memory,
    fit_steps,
    step_sample,
)
from orchestrator.plan.perf.least_squares import Sample, least_squares
from orchestrator.plan.perf.memory import Memory
from orchestrator.plan.perf.step import StepTime
from orchestrator.planner.calibrate import calibrate
from orchestrator.planner.calibration_file import read_calibrations, write_calibrations
from tests.support.measured_runs import configuration, leave_run
from tests.unit.planner.test_calibration_file import FITTED, THERE

POSITIVE = st.floats(1e-4, 1e3)
REST = st.just(0.0) | POSITIVE
STEPS = st.lists(
    st.builds(Sample, st.tuples(POSITIVE, st.just(1.0), REST), REST, POSITIVE), min_size=1, max_size=8
)
MEMORY = st.lists(
    st.builds(Sample, st.tuples(POSITIVE, st.just(1.0)), REST, POSITIVE), min_size=1, max_size=8
)
STEP = StepTime(
    **{name: float(place) for place, name in enumerate((f.name for f in dataclasses.fields(StepTime)), 1)}
)


def squares(samples: Sequence[Sample], left_out: Sequence[int], values: Sequence[float]) -> float:
    kept = [sample for place, sample in enumerate(samples) if place not in left_out]
    return math.fsum(sample.error(values) ** 2 for sample in kept)


@given(STEPS, MEMORY)
def test_runs_that_were_fitted_are_never_predicted_worse_than_before(
    steps: list[Sample], memory: list[Sample]
) -> None:
    for samples, found, nominal_values in (
        (steps, fit_steps(steps), (1.0, 0.0, 1.0)),
        (memory, fit_memory(memory, 0.0), (1.0, 0.0)),
    ):
        before = squares(samples, found.left_out, nominal_values)
        assert squares(samples, found.left_out, found.values) <= before * (1 + 1e-6) + 1e-9


BOUNDS = ((0.01, 100.0), (-1.0, math.inf), (0.1, 20.0))


@given(STEPS, st.tuples(*[st.floats(0.0, 1.0)] * 3), st.sampled_from([1e-3, 0.1, 1.0]))
def test_no_other_figures_within_the_bounds_do_better(
    samples: list[Sample], drawn: tuple[float, float, float], towards: float
) -> None:
    values = least_squares(samples, BOUNDS)
    there = [
        low + share * (min(high, low + 1e3) - low) for (low, high), share in zip(BOUNDS, drawn, strict=True)
    ]
    other = [value + towards * (aim - value) for value, aim in zip(values, there, strict=True)]
    for value, (low, high) in zip(values, BOUNDS, strict=True):
        assert low <= value <= high
    assert squares(samples, (), values) <= squares(samples, (), other) * (1 + 1e-6) + 1e-6


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.0, 2.0)), min_size=3, max_size=8),
    st.tuples(st.floats(0.1, 20.0), st.floats(0.0, 1.0), st.floats(0.2, 10.0)),
)
def test_the_law_that_runs_follow_is_found(
    drawn: list[tuple[float, float]], law: tuple[float, float, float]
) -> None:
    """Whatever of it these runs can tell: as to themselves there is no error left."""
    shares = [(0.01, 0.0), (50.0, 1.5), *drawn]
    parts = [(compute_s, 1.0, share * compute_s) for compute_s, share in shares]
    samples = [Sample(each, 0.5, Sample(each, 0.5, 1.0).predicted(law)) for each in parts]
    found = fit_steps(samples)
    assert found.left_out == ()
    for sample in samples:
        assert sample.error(found.values) == pytest.approx(0, abs=1e-4)


def step_run(compute_s: float, communication_s: float, law: tuple[float, float, float]) -> Sample:
    bare = Sample((compute_s, 1.0, communication_s), 0.1, 1.0)
    return dataclasses.replace(bare, actual=bare.predicted(law))


def test_what_few_runs_cannot_tell_apart_is_left_as_it_was() -> None:
    law = (2.0, 0.3, 4.0)
    told_apart = [step_run(compute_s, share, law) for compute_s, share in [(1, 0.5), (8, 0.1), (20, 9)]]
    assert fit_steps(told_apart).values == pytest.approx(law)
    factor, overhead_s, communication = fit_steps([step_run(1, 0, law)]).values
    assert (factor, overhead_s, communication) == pytest.approx((2.3, 0.0, 1.0)), (
        "one run gives a factor alone"
    )
    assert fit_steps([step_run(1, 0, law), step_run(8, 0, law)]).values == pytest.approx((2.0, 0.3, 1.0))
    alike = fit_steps([step_run(1, 0, law), step_run(1.5, 0, law)]).values
    assert alike[1:] == (0.0, 1.0), "runs that hardly differ say nothing of an overhead"
    little = fit_steps([step_run(compute_s, 0.001 * compute_s**2, law) for compute_s in (1, 2, 10)]).values
    assert little[2] == 1.0, "nor of communication, where there is hardly any"


def test_what_the_framework_takes_and_what_activations_take_are_told_apart() -> None:
    states, framework = 5e9, 2e9

    def memory_run(kept: float) -> Sample:
        return Sample((kept, 1.0), states + framework, states + framework + 0.7e9 + 1.3 * kept)

    assert fit_memory([memory_run(kept) for kept in (2e9, 8e9, 20e9)], framework).values == pytest.approx(
        (1.3, 0.7e9)
    )
    assert fit_memory([memory_run(2e9)], framework).values == pytest.approx((1.0, 0.7e9 + 0.3 * 2e9))
    small = Sample((1e9, 1.0), states, 3e9)
    assert fit_memory([small], framework).values == (1.0, -framework), (
        "what the framework takes is not negative"
    )


@given(
    st.lists(st.floats(0.97, 1.03), min_size=5, max_size=9), st.integers(0, 4), st.sampled_from([0.02, 40.0])
)
def test_one_run_that_is_nothing_like_the_others_is_left_out(
    noise: list[float], odd: int, times: float
) -> None:
    runs = [Sample((2.0**place, 1.0, 0.0), 0.0, 3 * 2.0**place * each) for place, each in enumerate(noise)]
    runs[odd] = dataclasses.replace(runs[odd], actual=runs[odd].actual * times)
    found = fit_steps(runs)
    assert found.left_out == (odd,)
    for place, run in enumerate(runs):
        assert place == odd or abs(run.error(found.values)) < 0.2


def test_noise_leaves_nobody_out() -> None:
    drawn = [(1, 0.9), (2, 1.1), (3, 1.05), (4, 0.95), (9, 1.2)]
    assert fit_steps([Sample((s, 1.0, 0.0), 0.0, 3 * s * noise) for s, noise in drawn]).left_out == ()


@given(st.floats(0.01, 100), st.floats(0, 10), st.floats(0.1, 10))
def test_a_step_is_scaled_by_part(factor: float, overhead_s: float, communication: float) -> None:
    after = Calibration(factor, overhead_s, communication).apply(STEP)
    for field in dataclasses.fields(StepTime):
        times = factor if field.name in COMPUTE else communication if field.name in COMMUNICATION else 1.0
        more_s = overhead_s if field.name == "host_s" else 0.0
        assert getattr(after, field.name) == pytest.approx(times * getattr(STEP, field.name) + more_s)
    assert after.total_s == pytest.approx(
        step_sample(STEP, 1.0).predicted((factor, overhead_s, communication))
    )
    assert Calibration().apply(STEP) == STEP


def test_memory_is_scaled_by_part() -> None:
    before = Memory(*range(1, 1 + len(dataclasses.fields(Memory))))
    after = Calibration(memory_factor=2.0, memory_offset_bytes=-(10**9)).apply_memory(before)
    assert after.framework == 0
    for field in dataclasses.fields(Memory):
        if field.name != "framework":
            times = 2 if field.name in KEPT else 1
            assert getattr(after, field.name) == times * getattr(before, field.name)
    assert Calibration().apply_memory(before) == before


# ---- the verb ------------------------------------------------------------------------------------

TRUTH = Calibration(
    3.0, overhead_s=0.02, communication_factor=2.0, memory_factor=1.5, memory_offset_bytes=30_000_000
)
WITHOUT_NETWORK = dataclasses.replace(TRUTH, communication_factor=1.0)
SHAPES = [
    {"model__hidden": 96, "model__layers": 2},
    {"model__hidden": 384, "model__layers": 4, "job__micro_batch": 8},
    {"model__hidden": 768, "model__layers": 6, "job__micro_batch": 1, "model__seq_len": 64},
    {"model__hidden": 192, "model__layers": 2, "job__global_batch": 16},
]


def planned(config: Config) -> Nominal:
    found = nominal(config, derive_layout(config))
    assert found is not None
    return found


def ran(folder: Path, config: Config, truth: Calibration = TRUTH, **how: int | Status | None) -> Path:
    """A run that took exactly what ``truth`` says."""
    expected = planned(config)
    assert expected.step is not None
    seconds = truth.apply(expected.step).total_s
    return leave_run(folder, config, seconds, truth.apply_memory(expected.memory).total_bytes, **how)  # type: ignore[arg-type]


def told(root: Path, *refs: str, path: Path | None = None) -> str:
    console = Console(width=150, file=io.StringIO(), record=True)
    path = path or root / "calibration.yaml"
    found = calibrate(
        refs, str(root), path, constants(), lambda name, reason: show_skipped(name, reason, console)
    )
    show_calibrations(found, console)
    return console.export_text()


def constants() -> PlannerConfig:
    return configuration().planner


def test_runs_calibrate_their_own_group_and_nothing_else(tmp_path: Path) -> None:
    for number, shape in enumerate(SHAPES):
        ran(tmp_path / f"cpu-{number}", configuration(**shape))
    slow = Calibration(compute_factor=9.0)
    ran(tmp_path / "elsewhere", configuration(cluster__name="ours"), slow)
    text = told(tmp_path)
    found = read_calibrations(tmp_path / "calibration.yaml")
    here = found[group_of(configuration(), derive_layout(configuration()))]
    assert here.compute_factor == pytest.approx(TRUTH.compute_factor, rel=1e-3)
    assert here.overhead_s == pytest.approx(TRUTH.overhead_s, rel=1e-2)
    assert here.communication_factor == pytest.approx(TRUTH.communication_factor, rel=1e-2)
    assert here.memory_factor == pytest.approx(TRUTH.memory_factor, rel=1e-3)
    assert here.memory_offset_bytes == pytest.approx(TRUTH.memory_offset_bytes, rel=1e-2)
    assert here.runs == 4
    assert here.basis == "calibrated on 4 runs of local with CPU core in fp32, the last on 2023-11-14"
    assert found[Group("ours", "CPU core", "fp32", False)].compute_factor == pytest.approx(9.0, rel=1e-3)
    assert len(found) == 2
    assert "2 calibrations from 5 runs written to" in " ".join(text.split())
    for name in ("cpu-0", "cpu-1", "cpu-2", "cpu-3", "elsewhere"):
        assert f"{name} " in text
    assert "+0.0%" in text


def test_twice_is_the_same_file_whatever_the_order(tmp_path: Path) -> None:
    for number, shape in enumerate(SHAPES):
        ran(tmp_path / f"run-{number}", configuration(**shape))
    told(tmp_path)
    once = (tmp_path / "calibration.yaml").read_bytes()
    told(tmp_path)
    told(tmp_path, "run-2", "run-0", "run-3", "run-1", "run-2")
    assert (tmp_path / "calibration.yaml").read_bytes() == once


def test_entries_of_other_clusters_stay(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    write_calibrations(path, {THERE: FITTED})
    ran(tmp_path / "run", configuration())
    told(tmp_path, path=path)
    assert read_calibrations(path)[THERE] == FITTED
    assert not (tmp_path / "calibration.yaml").exists()


def test_runs_that_say_nothing_are_skipped_with_the_reason(tmp_path: Path) -> None:
    ran(tmp_path / "good", configuration())
    ran(tmp_path / "short", configuration(), steps=1)
    ran(tmp_path / "killed", configuration(), status=None)
    ran(tmp_path / "stopped", configuration(), status=Status.INTERRUPTED)
    leave_run(tmp_path / "script", configuration(model=None, job__global_batch=8), 1.0)
    damaged = ran(tmp_path / "damaged", configuration()) / "journal.jsonl"
    damaged.write_text("nonsense\n" + damaged.read_text())
    (ran(tmp_path / "bare", configuration()) / "plan.json").unlink()
    kept = ran(tmp_path / "older", configuration()) / "resume.json"
    kept.write_text(kept.read_text().replace('"vocab"', '"vocabulary"'))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "journal.jsonl").touch()
    live = RunDirectory(ran(tmp_path / "live", configuration()))
    live.hold(resume=True)
    text = told(tmp_path)
    live.release()
    for name, reason in {
        "short": "0 steps after the first 3 of an attempt, and needs 3",
        "killed": "has not finished (its driver was lost)",
        "stopped": "has not finished (interrupted)",
        "script": "its model was not described",
        "damaged": "its journal is damaged",
        "bare": "its configuration cannot be read",
        "older": "its configuration is of another version",
        "empty": "it never began",
        "live": "it is still running",
    }.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name}: skipped"))
        assert reason in line
    found = read_calibrations(tmp_path / "calibration.yaml")
    assert [one.runs for one in found.values()] == [1]
    assert "2 runs" in told(tmp_path, "killed", "stopped"), "they are used where they are named"


def test_without_a_run_to_use_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run in"):
        told(tmp_path)
    ran(tmp_path / "short", configuration(), steps=1)
    with pytest.raises(ConfigError, match="none of the runs named can be used"):
        told(tmp_path, "short")
    with pytest.raises(ConfigError, match="did you mean 'short'"):
        told(tmp_path, "shrt")
    assert not (tmp_path / "calibration.yaml").exists()


def test_a_run_that_took_far_longer_than_the_others_is_left_out_and_named(tmp_path: Path) -> None:
    for number, hidden in enumerate((96, 192, 384, 768, 960)):
        ran(tmp_path / f"run-{number}", configuration(model__hidden=hidden, model__heads=6), WITHOUT_NETWORK)
    expected = planned(configuration()).step
    assert expected is not None
    leave_run(tmp_path / "throttled", configuration(), 100 * expected.total_s)
    assert "left out, nothing like the others: throttled" in told(tmp_path)
    (found,) = read_calibrations(tmp_path / "calibration.yaml").values()
    assert found.compute_factor == pytest.approx(TRUTH.compute_factor, rel=1e-3)


def test_runs_that_disagree_are_named(tmp_path: Path) -> None:
    """The same shape twice, once on a machine that was busy: no figures fit both."""
    ran(tmp_path / "calm", configuration(), WITHOUT_NETWORK)
    busy = dataclasses.replace(WITHOUT_NETWORK, compute_factor=2 * WITHOUT_NETWORK.compute_factor)
    ran(tmp_path / "busy", configuration(), busy)
    text = told(tmp_path)
    assert "these runs disagree: what would be said of calm now is +" in text
    assert "off, of busy -" in text
    assert "these runs disagree" not in told(tmp_path, "calm")


@pytest.mark.parametrize(("width", "before"), [(76, False), (120, True)])
def test_a_run_has_one_line_however_long_its_name(tmp_path: Path, width: int, before: bool) -> None:
    names = [f"tiny_gpt-20261122-183134-0455e5{number:02}" for number in range(len(SHAPES))]
    for name, shape in zip(names, SHAPES, strict=True):
        ran(tmp_path / name, configuration(**shape))
    out = io.StringIO()
    path = tmp_path / "calibration.yaml"
    found = calibrate([], str(tmp_path), path, constants(), lambda name, reason: None)
    show_calibrations(found, Console(file=out, width=width))
    lines = [line for line in out.getvalue().splitlines() if "0455e5" in line]
    assert [name[-9:] in line for name, line in zip(names, lines, strict=True)] == [True] * len(names)
    assert ("before" in out.getvalue()) == before
    assert max(map(len, lines)) <= width


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["orchestrator"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for number, shape in enumerate(SHAPES):
        ran(tmp_path / "mine" / f"run-{number}", configuration(**shape))
    assert cli.main(["calibrate", "run_root=mine", "run-1", "run-0", "calibration=ours.yaml"]) == 0
    assert "1 calibration from 2 runs written to ours.yaml" in capsys.readouterr().out
    assert cli.main(["calibrate", "run_root=mine"]) == 0
    assert "from 4 runs written to mine/calibration.yaml" in capsys.readouterr().out
    assert cli.main(["calibrate"]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: calibrate: no run in runs can be used")
    assert refused.count("\n") == 1
    (tmp_path / "ours.yaml").write_text("nonsense")
    assert cli.main(["calibrate", "run_root=mine", "calibration=ours.yaml"]) == 2
    assert "calibration=ours.yaml: has no list 'calibrations'" in capsys.readouterr().err
