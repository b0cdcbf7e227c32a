"""The validation of the planner's model: the documented command and its JSON, baselines, ranks of layouts,
pictures."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import (
    planner_accuracy,
    planner_baselines,
    planner_calibration_plot,
    planner_folds,
    planner_layouts,
    planner_plot,
    planner_ranges,
)
from benchmarks.planner_accuracy import Answer, answers, body, by_table, comparable_bytes, read
from benchmarks.planner_fit import ROWS, load_constants
from benchmarks.planner_report import PAGE, SECTION, Validation, tables
from orchestrator.errors import ConfigError
from orchestrator.plan.perf.memory import Memory
from tests.support.folders import PROJECT

SCRIPT = Path(planner_accuracy.__file__)
CONSTANTS = load_constants()  # reading them takes longer than a hundred answers
GOOD = {
    "table": "mine", "source": "a log", "model": "plain-1b", "layers": "24", "hidden": "2048", "heads": "16",
    "ffn": "8192", "vocab": "50304", "seq_len": "2048", "global_batch": "64", "micro_batch": "8",
    "gpu": "a100_80gb", "gpus": "8", "gpus_per_node": "8", "tp": "1", "pp": "1", "recompute": "none",
    "precision": "bf16", "zero_stage": "3", "framework": "FSDP", "step_time_s": "0.9", "mem_gb": "40",
    "mem_kind": "nvidia-smi max", "weather": "rain",
}  # fmt: skip
COLUMNS = tuple(GOOD)
BAD = {
    "malformed": ({"layers": "twenty"}, "layers 'twenty' is not a number"),
    "negative": ({"step_time_s": "-3"}, "step_time_s -3 is out of range"),
    "infinite": ({"global_batch": "inf"}, "global_batch inf is out of range"),
    "unknown GPU": ({"gpu": "tpu_v5p"}, "gpu 'tpu_v5p' is not on record"),
    "nothing measured": ({"step_time_s": ""}, "neither step time nor a rate is given"),
    "no batch": ({"global_batch": ""}, "its batch is not given"),
    "indivisible": ({"tp": "3"}, "do not multiply to its GPUs"),
    "enormous": ({"hidden": "1e300"}, ""),
}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def sample() -> list[Answer]:
    rows = read(ROWS)
    return answers(rows[::9], CONSTANTS)[0]


@pytest.mark.parametrize(
    "command", [["benchmarks/planner_accuracy.py"], ["-m", "benchmarks.planner_accuracy"]]
)
def test_the_command_prints_one_json_object(tmp_path, command):
    other = {**GOOD, "table": "other", "step_time_s": "9", "mem_gb": ""}
    rows = [GOOD, other, *({**GOOD, "table": "other", **changed} for changed, _ in BAD.values())]
    done = run(*command, "--rows", str(write(tmp_path / "rows.csv", rows)), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert set(found) == {
        "rows", "refused", "mean_abs_error", "memory_mean_abs_error", "memory_low", "range_coverage", "by_table",
    }  # fmt: skip
    assert (found["rows"], found["refused"]) == (10, 8)
    mine, others = found["by_table"]["mine"], found["by_table"]["other"]
    assert set(mine) == set(others) == {"rows", "refused", "mean_abs_error", "bias", "range_coverage"}
    assert (mine["rows"], mine["refused"], others["rows"], others["refused"]) == (1, 0, 9, 8)
    assert mine["mean_abs_error"] == abs(mine["bias"])
    assert found["mean_abs_error"] == pytest.approx((mine["mean_abs_error"] + others["mean_abs_error"]) / 2)
    # the same prediction, against ten times the measured time
    assert 1 + others["bias"] == pytest.approx((1 + mine["bias"]) / 10)
    assert 0 < found["memory_mean_abs_error"] < 1
    # ten times as slow as another is within no range, and the one table with memory is not in the other
    assert others["range_coverage"] == 0
    assert found["range_coverage"] == mine["range_coverage"] / 2
    assert found["memory_low"] in (0, 1)


def test_a_file_with_nothing_to_say_has_null_errors(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    for path in (tmp_path / "empty.csv", write(tmp_path / "head.csv", [])):
        assert body(read(path), *answers(read(path), CONSTANTS), CONSTANTS) == {
            "rows": 0, "refused": 0, "mean_abs_error": None, "memory_mean_abs_error": None, "memory_low": None,
            "range_coverage": None, "by_table": {},
        }  # fmt: skip


def test_no_file_is_one_line_and_exit_code_2(tmp_path):
    done = run("benchmarks/planner_accuracy.py", "--rows", str(tmp_path / "none.csv"), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "none.csv" in done.stderr


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_cannot_be_planned_is_refused_with_the_reason(name):
    changed, reason = BAD[name]
    answered, refused = answers([GOOD, {**GOOD, **changed}], CONSTANTS)
    assert len(answered) == len(refused) == 1
    assert reason in refused[0][1]


texts = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "8", "7.5", "1e12", "nan", "x", "full", "fp8", "H100"]), st.text()
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS), texts, max_size=4))
def test_whatever_a_row_says_it_is_answered_or_refused(changed):
    answered, refused = answers([{**GOOD, **changed}], CONSTANTS)
    assert len(answered) + len(refused) == 1
    assert all(one.predicted_s > 0 for one in answered)


def test_memory_is_compared_with_what_the_figure_covers():
    memory = Memory(weights=1, gradients=2, optimizer=4, activations=8, logits=16, framework=32)
    assert comparable_bytes(memory, "nvidia-smi max of first/last node") == 63
    assert comparable_bytes(memory, "GiB, max over ranks (torchtitan log)") == 31
    assert comparable_bytes(memory, "GiB: params+optimizer 45 + activations 9 (paper estimate, Fig. 1)") == 15


def test_a_run_out_of_memory_counts_for_the_memory_alone():
    too_much = {**GOOD, "micro_batch": "64", "gpus": "1", "step_time_s": "", "mem_gb": "", "oom": "1"}
    answered, refused = answers([GOOD, too_much], CONSTANTS)
    assert [one.out_of_memory for one in answered] == [False, True]
    assert [one.fits for one in answered] == [True, False]
    found = body([GOOD, too_much], answered, refused, CONSTANTS)
    assert found["refused"] == 0
    assert found["mean_abs_error"] == abs(answered[0].error)


def test_the_carried_rows_stay_answered_and_predicted(sample):
    rows = read(ROWS)[::9]
    found = body(rows, sample, [], CONSTANTS)
    assert len(sample) >= 0.9 * len(rows)
    assert len(found["by_table"]) == 8
    assert found["mean_abs_error"] < 0.12
    assert found["memory_mean_abs_error"] < 0.06
    assert found["range_coverage"] > 0.75
    for table, figures in found["by_table"].items():
        assert figures["mean_abs_error"] < 0.35, table


@pytest.mark.parametrize("share", [0.2, 0.55])
def test_a_constant_utilisation_is_learnt_from_the_other_tables(sample, share):
    ideal_s = planner_baselines.utilisation_s
    cases = [replace(one.case, step_s=ideal_s(one.case) / share) for one in sample]
    found = planner_baselines.Baseline("constant", ideal_s).errors(cases)
    assert max(abs(error) for error in found) < 1e-9
    # a table does not learn from itself: one that is ten times as slow is predicted ten times too fast
    strange = [replace(case, step_s=case.step_s * (10 if case.table == "dgxc" else 1)) for case in cases]
    found = planner_baselines.Baseline("constant", ideal_s).errors(strange)
    for case, error in zip(strange, found, strict=True):
        assert case.table != "dgxc" or error == pytest.approx(-0.9)


def test_constant_utilisation_is_as_far_off_as_published_for_its_own_source(sample):
    untuned = next(one for one in planner_baselines.baselines() if one.name == planner_baselines.UNTUNED)
    cases = by_table(sample)["llm_foundry"]
    errors = untuned.errors([one.case for one in cases])
    assert sum(map(abs, errors)) / len(errors) == pytest.approx(0.135, abs=0.03)


def test_layouts_ranked_as_measured_cost_nothing(sample):
    perfect = [replace(one, predicted_s=one.case.step_s * 1.7) for one in sample]
    for found in planner_layouts.choices_by_table(perfect).values():
        assert found.correlation == pytest.approx(1)
    inside = [one for one in perfect if one.fits]
    assert all(found.worst_regret == 0 for found in planner_layouts.choices_by_table(inside).values())
    backwards = [replace(one, predicted_s=1 / one.case.step_s) for one in inside]
    for found in planner_layouts.choices_by_table(backwards).values():
        assert found.correlation == pytest.approx(-1)
        assert found.worst_regret > 0


def test_a_fold_does_not_see_its_table(monkeypatch):
    rows = [
        {**GOOD, "table": table, "step_time_s": str(time)} for table, time in (("a", 1), ("b", 2), ("c", 3))
    ]
    seen: list[set[str]] = []

    def fit(cases, base):
        seen.append({case.table for case in cases})
        return base

    monkeypatch.setattr(planner_folds, "fit", fit)
    found = planner_folds.fold("b", rows, CONSTANTS)
    assert seen == [{"a", "c"}, {"a", "c"}]
    assert [one.case.table for one in found.answers] == ["b"]
    with pytest.raises(ConfigError, match="1 table"):
        planner_folds.leave_one_table_out(rows[:1], CONSTANTS)


def test_tables_and_pictures_are_made_of_what_was_found(sample, tmp_path):
    names = list(by_table(sample))
    errors = {"planner": dict.fromkeys(names, 0.1), "constant utilisation": dict.fromkeys(names, 0.25)}
    found = Validation(len(sample), errors, sample, random.Random(1).sample(sample, len(sample)), sample[:2])
    text = "\n".join(tables(found))
    assert "relative to constant utilisation: **0.40** (10.0% to 25.0%" in text
    assert all(f"| {name} |" in text for name in names)
    assert "| **all rows** |" in text
    planner_calibration_plot.draw((0.2, 0.8), {"one": [0.1, 0.7]}, [0.1, 0.7], tmp_path / "ranges.svg")
    assert (tmp_path / "ranges.svg").stat().st_size > 5_000
    for suffix in ("svg", "png"):
        planner_plot.draw(sample, errors, "planner", tmp_path / f"planner.{suffix}")
        assert (tmp_path / f"planner.{suffix}").stat().st_size > 10_000


def test_ranges_of_a_table_are_made_from_the_others(sample):
    """A table that is ten times as slow as its prediction is within none, and does not widen its own."""
    strange = [
        replace(one, predicted_s=one.case.step_s / 10) if one.case.table == "dgxc" else one for one in sample
    ]
    inside = planner_ranges.left_out(strange, 0.0, 0.1)
    assert not any(inside["dgxc"])
    assert sum(inside["vtrain_single"]) > 0
    own = planner_ranges.evidence_of(strange)
    assert sum(one.rows for one in own) == len(sample)
    assert {one.ratios[2] for one in own if one.table == "dgxc"} == {10.0}
    wider = planner_ranges.least_widening(sample, 0.1)
    held = planner_ranges.left_out(sample, wider, 0.1)
    assert sum(map(sum, held.values())) >= sum(map(sum, planner_ranges.left_out(sample, 0.0, 0.1).values()))


# Software of one's own on thousands of GPUs: Llama 3 (arXiv 2407.21783, table 4: 400 BF16 TFLOP/s of a GPU) and
# MegaScale (arXiv 2402.15627, table 2), with what each leaves unsaid left blank. Nothing is fitted to these.
ALONE = [
    ("llama3-405b", {"layers": "126", "hidden": "16384", "heads": "128", "kv_heads": "8", "ffn": "53248",
                     "vocab": "128256", "seq_len": "8192", "global_batch": "2048", "gpu": "h100_80gb",
                     "gpus": "16384", "tp": "8", "pp": "16", "tflops_per_gpu": "400", "framework": "own"}),
    ("GPT-175B", {"layers": "96", "hidden": "12288", "heads": "96", "ffn": "49152", "vocab": "51200",
                  "global_batch": "6144", "gpus": "12288", "tp": "8", "pp": "8", "vp": "6",
                  "step_time_s": "6.34", "framework": "MegaScale"}),
    ("GPT-175B", {"layers": "96", "hidden": "12288", "heads": "96", "ffn": "49152", "vocab": "51200",
                  "global_batch": "6144", "gpus": "12288", "tp": "8", "pp": "8", "vp": "6",
                  "step_time_s": "8.57", "framework": "Megatron-LM"}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "row"), ALONE)
def test_software_that_nobody_else_has_and_that_divides_models_is_taken_for_megatrons(model, row):
    blank = dict.fromkeys(("micro_batch", "recompute", "zero_stage", "step_time_s", "mem_gb"), "")
    (found,), _ = answers([{**GOOD, **blank, "model": model, **row}], CONSTANTS)
    assert found.case.layout.framework == "megatron"
    assert abs(found.error) < 0.2
    assert found.fits


@pytest.mark.parametrize(
    ("words", "schedule"),
    [("Megatron-LM, ZB-2p", "ZB-2p"), ("GPipe", "GPipe"), ("Megatron-DeepSpeed 1F1B", "1F1B"), ("", "1F1B")],
)
def test_the_schedule_of_a_row_is_what_it_names(words, schedule):
    (found,), _ = answers([{**GOOD, "framework": words}], CONSTANTS)
    assert found.case.software.schedule.value == schedule


def test_a_blank_number_of_heads_is_that_of_the_same_table_and_width():
    """A sweep of layouts keeps the shape; 2304 is in no other row."""
    wide = {**GOOD, "hidden": "1800", "heads": "12", "ffn": ""}
    rows = [GOOD, GOOD, wide, {**wide, "heads": ""}, {**GOOD, "heads": "", "hidden": "2304", "ffn": ""}]
    found = [one.case.model.heads for one in answers(rows, load_constants())[0]]
    assert found == [16, 16, 12, 12, 16]


def test_bigsciences_runs_waited_for_every_kernel_where_they_hung_otherwise():
    theirs = {**GOOD, "source": "bigscience-workshop/bigscience@9e64ede", "framework": "Megatron-DeepSpeed"}
    rows = [{**theirs, "gpus": gpus} for gpus in ("64", "320")]
    rows += [{**GOOD, "notes": notes} for notes in ("CUDA_LAUNCH_BLOCKING=1", "")]
    found = answers(rows, load_constants())[0]
    assert [one.case.machine.waits_for_kernels for one in found] == [False, True, True, False]


def test_a_row_of_omni_path_has_what_was_measured_on_it():
    """5.1 GB/s of bus bandwidth for an all-reduce over four nodes, 6.8 over sixteen: of 50."""
    fabrics = ("4x100Gb Omni-Path per node", "4x100Gb IB")
    found = answers([{**GOOD, "interconnect": fabric} for fabric in fabrics], load_constants())[0]
    slow, usual = [one.case.machine for one in found]
    assert slow.node_bytes_per_s == usual.node_bytes_per_s == 50e9
    assert 5.1e9 < slow.node_bytes_per_s * slow.fabric_efficiency < 6.8e9
    assert usual.fabric_efficiency > 0.5


def test_the_page_has_marks_to_write_between():
    page = PAGE.read_text()
    assert page.count(f"<!-- {SECTION}: begin -->") == page.count(f"<!-- {SECTION}: end -->") == 1
