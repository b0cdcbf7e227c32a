"""What DeepSpeed's engine runs with, on its way from rank 0 to what a person and MLflow are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from orchestrator.agent.messages import EngineTold
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.engine_values import planned_values
from orchestrator.config.composing import compose
from orchestrator.driver.planning import make_plan
from orchestrator.driver.tracking import write_run_metadata
from orchestrator.events import EngineConfigured, Record, RunStarted, StepDone
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.ledger.story import Story
from orchestrator.ledger.story_lines import Kind
from orchestrator.rank.messages import EngineMade
from orchestrator.records import record_from_json, record_to_json

MADE = EngineMade(32, 8, 2, "bf16", 0, 2)
OWN = EngineConfigured(
    1, 32, 8, 2, "bf16", 0, 2, {"global_batch": 2, "micro_batch": 1, "accumulation": 1, "precision": "fp32"}
)
PLANNED = {"train_batch_size": 2, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}


def test_the_planned_values_are_those_of_the_deepspeed_file() -> None:
    file = {**PLANNED, "bf16": {"enabled": True}, "fp16": None, "zero_optimization": {"stage": 2}}
    assert planned_values(file, 4) == {
        "global_batch": 2, "micro_batch": 1, "accumulation": 1, "precision": "bf16", "zero_stage": 2,
        "world_size": 4,
    }  # fmt: skip
    assert planned_values({}, 1) == {"precision": "fp32", "zero_stage": 0, "world_size": 1}


def test_the_event_has_what_runs_and_what_was_planned_of_the_rest() -> None:
    attempt = Attempt(1, ["node-a"], 2, planned=planned_values(PLANNED, 2))
    assert attempt.receive(0, EngineTold(MADE), 0.0) == [OWN]
    as_planned = Attempt(1, ["node-a"], 2, planned={"global_batch": 32, "zero_stage": 0})
    assert as_planned.receive(0, EngineTold(MADE), 0.0) == [EngineConfigured(1, 32, 8, 2, "bf16", 0, 2, {})]
    line = record_to_json(Record(3, 1.0, 1e9, OWN))
    assert record_from_json(line).event == OWN


def test_what_nobody_asked_for_is_told_and_is_no_warning() -> None:
    assumed = ("micro_batch", "accumulation", "global_batch", "zero_stage")
    attempt = Attempt(1, ["node-a"], 2, planned=planned_values(PLANNED, 2), assumed=assumed)
    (event,) = attempt.receive(0, EngineTold(MADE), 0.0)
    assert event == replace(OWN, assumed=["global_batch", "micro_batch", "accumulation"])
    told, warned = Story(None).lines(Record(0, 1.0, 1e9, event))
    assert (told.kind, warned.kind) == (Kind.NOTE, Kind.WARNING)
    assert told.text == "the script has chosen for DeepSpeed: batch 32, micro-batch 8, accumulation 2"
    assert "than were planned: precision bf16 instead of fp32. What" in warned.text
    begun = Record(0, 0.0, 1e9, RunStarted("r", "j", "c", "cpu", 2, 0.0, tokens_per_step=200))
    records = [begun, Record(1, 1.0, 1e9, event), Record(2, 2.0, 1e9, StepDone(1, 1, 0.5))]
    assert Meter().fold_all(records).bill().tokens == 3200, "though it was only assumed"


def test_a_person_is_warned_of_values_that_were_not_planned_and_of_no_others() -> None:
    story = Story(None)
    (line,) = story.lines(Record(0, 1.0, 1e9, OWN))
    assert line.kind is Kind.WARNING
    assert "batch 32 instead of 2, micro-batch 8 instead of 1, accumulation 2 instead of 1" in line.text
    assert "precision bf16 instead of fp32" in line.text
    assert story.lines(Record(1, 1.0, 1e9, replace(OWN, attempt=2))) == [], "it is said once"
    assert story.lines(Record(1, 1.0, 1e9, EngineConfigured(1, 32, 8, 2, "bf16", 0, 2))) == []


def test_mlflow_is_told_what_runs() -> None:
    projection = Projection(2.0)
    projection.fold(Record(0, 0.0, 1e9, RunStarted("r", "j", "c", "cpu", 2, 0.0)))
    projection.fold(Record(1, 1.0, 1e9, OWN))
    assert {name: tag for name, tag in projection.tags.items() if name.startswith("engine.")} == {
        "engine.global_batch": "32", "engine.micro_batch": "8", "engine.accumulation": "2",
        "engine.precision": "bf16", "engine.zero_stage": "0", "engine.world_size": "2",
    }  # fmt: skip


def test_tokens_are_those_of_the_batch_that_runs() -> None:
    begun = Record(0, 0.0, 1e9, RunStarted("r", "j", "c", "cpu", 2, 0.0, tokens_per_step=200))
    for told, tokens in ((OWN, 3200), (EngineConfigured(1, 32, 8, 2, "bf16", 0, 2), 200)):
        records = [
            begun,
            *(Record(n, float(n), 1e9, told) for n in (1, 2)),
            Record(3, 3.0, 1e9, StepDone(1, 1, 0.5)),
        ]
        assert Meter().fold_all(records).bill().tokens == tokens


def test_a_plan_states_no_batch_that_nobody_has_said(tmp_path: Path) -> None:
    script, file = tmp_path / "train.py", tmp_path / "own.json"
    script.write_text("from transformers import Trainer\n")
    auto = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": "auto"}}
    file.write_text(json.dumps(auto))
    words = ["gpu=cpu", "job=script", f"job.script={script}", f"+job.args.deepspeed={file}"]
    plan = make_plan(compose(*words))
    assert 'the script\'s own: it is "auto" in the DeepSpeed file' in " ".join(str(plan).split())
    assert "sequences a step" not in str(plan)
    assert "fp32 assumed" in str(plan)
    said = make_plan(compose(*words, "+job.args.per_device_train_batch_size=3"))
    assert "sequences a step = 3 micro-batch" in " ".join(str(said).split())


def test_what_is_the_script_s_own_is_no_parameter_and_the_plan_says_so(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.touch()
    words = ["gpu=cpu", "job=script", f"job.script={script}", "cluster.gpus_per_node=2"]
    handed = "+job.args.ds='{deepspeed_config}'"
    for more, has in (([], False), ([handed], True)):
        config = compose(*words, *more)
        plan = make_plan(config)
        directory = RunDirectory(tmp_path / f"run-{has}")
        directory.hold()
        write_run_metadata(config, plan, "a-run", directory)
        directory.release()
        params = json.loads((directory.path / "tracking.json").read_text())["params"]
        for name in ("layout.global_batch", "layout.precision", "deepspeed."):
            assert any(key.startswith(name) for key in params) is has, name
        assert "layout.ranks" in params
        assert ("the script's own" in str(plan)) is not has
