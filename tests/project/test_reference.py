"""docs/reference.md names what is written: verbs, journal, MLflow and the files of a run have its very
keys."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest

from infra import generate_reference
from infra.json_fields import differences, fields_of
from orchestrator.agent.zygote_pool import NodeZygotes, _Held
from orchestrator.cli import cli
from orchestrator.cli.report import RunReport
from orchestrator.cli.show.budget_json import BudgetResultJson
from orchestrator.cli.show.runs_export import to_csv, to_json
from orchestrator.cli.show.sweep_table import SweptPlan
from orchestrator.cluster import overview
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.driver.cluster_status import ClusterSeen, seen_by
from orchestrator.driver.preflight import plan_of
from orchestrator.driver.run_list import ListedRun
from orchestrator.driver.spending import SpentGroup, Wanted, spent_groups
from orchestrator.driver.tracking import write_run_metadata
from orchestrator.events import (
    AttemptStarted,
    CheckpointWriteBlocked,
    Decided,
    EngineConfigured,
    Event,
    MemoryPeaked,
    NodeSampled,
    Record,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow import names
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.ledger.mlflow.run_table import MAPS
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.ledger.notify.texts import generic
from orchestrator.ledger.notify.words import Sender, Word, Words
from orchestrator.ledger.record_lines import STEP_LINE, line_of
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.ledger.spend import Spend, SpendNote
from orchestrator.plan.plan import Plan
from orchestrator.records import record_to_json
from orchestrator.users import user_name
from orchestrator.vocabulary import Moment
from tests.support.fakes import lost
from tests.unit.config.test_conf import composed

ADDRESS = "10.0.0.1:6379"
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]
STARTED = RunStarted(
    "r",
    "gpt",
    "lab",
    "H100",
    4,
    2.5,
    "GPU",
    5,
    1000,
    1e9,
    1e12,
    ADDRESS,
    1.0,
    10,
    0.1,
    modelled_watts_per_gpu=900.0,
    grid_gco2_per_kwh=400.0,
)
TOLD: list[tuple[float, Event]] = [
    (0, STARTED),
    (0, ResourcesGranted(["n"], 4)),
    (0, AttemptStarted(1, "h", 1, 4)),
    (0, EngineConfigured(1, 8, 2, 1, "bf16", 1, 4, {"zero_stage": 0})),
    *((step, StepDone(1, step, 1.0, 3.0, 1e-3, 0.5)) for step in range(1, 6)),
    (6, MemoryPeaked(1, 4, 9)),
    (7, lost(1, 5)),
    (8, Decided("restart", "one of ten")),
    (9, CheckpointWriteBlocked("n", "no space")),
    (10, AttemptStarted(2, "h", 2, 4)),
    (11, StepDone(2, 6, 1.0, 2.0)),
    (12, StepDone(2, 7, 1.0, 2.0, skipped=True)),
    (13, NodeSampled("n", {"gpu_energy_joules": 9e6, "processor_energy_joules": 3e6})),
]
ENDED: list[tuple[float, Event]] = [(13, RunEnded(Status.FINISHED, "all steps are done"))]


def records(timeline: list[tuple[float, Event]]) -> list[Record]:
    return [Record(seq, at, 1e9 + at, event) for seq, (at, event) in enumerate(timeline)]


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a verb prints with ``--json``, in this process and from an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["orchestrator"])

    def call(*words: str) -> Any:
        assert cli.main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


PLANS = [
    CPU,
    ["job=script", "job.script=job.py", *CPU],
    ["job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=4", "job.supports=[tp,pp]", "layout=auto"],
    ["job=llama3_8b", "cluster=aws_p5", "cluster.nodes=4", "cluster.price.kind=list"],
]


@pytest.mark.parametrize("words", PLANS, ids=lambda words: words[0])
def test_a_plan(printed: Any, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("")
    assert differences(printed("plan", *words), Plan) == []


def test_plans_of_a_sweep_and_what_is_refused(printed: Any) -> None:
    told = printed("plan", "-m", *CPU, "job.global_batch=8,7", "job.micro_batch=4")
    assert [set(point) & {"plan", "refused"} for point in told] == [{"plan"}, {"refused"}]
    assert differences(told, list[SweptPlan]) == []


@pytest.mark.parametrize(
    "words", [["budget_usd=50000"], ["deadline_days=20", "model=llama3_8b", "job=pretrain"]]
)
def test_the_answer_to_a_budget(printed: Any, words: list[str]) -> None:
    told = printed("plan", *words, "cluster=dgx_h100", "cluster.nodes=4")
    assert told["options"]
    assert differences(told, BudgetResultJson) == []


def test_runs_as_json_and_as_csv() -> None:
    row = RunRow("1", "r", None, "failed", *[None] * 14)
    assert differences(json.loads(to_json([row])), list[RunRow]) == []
    header = [field.name for field in fields_of(RunRow) if field.name not in MAPS]
    assert next(csv.reader(io.StringIO(to_csv([row])))) == header
    swept = dataclasses.replace(row, settings={"job.args.lr": "1e-3"})
    assert next(csv.reader(io.StringIO(to_csv([swept])))) == [*header, "job.args.lr"]


def test_incidents(printed: Any, tmp_path: Path) -> None:
    journal = tmp_path / "runs" / "r" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("".join(f"{record_to_json(record)}\n" for record in records([*TOLD, *ENDED])))
    told = printed("incidents", "r")
    assert [one["fault"] for one in told] == ["exit", "write_blocked"]
    assert differences(told, list[Incident]) == []


def test_runs_and_a_report(printed: Any, tmp_path: Path) -> None:
    journal = tmp_path / "runs" / "r" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("".join(f"{record_to_json(record)}\n" for record in records([*TOLD, *ENDED])))
    listed, report = printed("runs"), printed("report", "r")
    assert [(run["name"], run["state"]) for run in listed] == [("r", "finished")]
    assert differences(listed, list[ListedRun]) == []
    assert (report["state"], len(report["incidents"])) == ("finished", 2)
    assert report["bill"]["cost_usd"] == listed[0]["cost_usd"]
    assert differences(report, RunReport) == []


def test_a_word_to_people() -> None:
    sender = Sender("/runs/r", "host", "ada", "resume r")
    words = Words(frozenset(Moment), sender)
    told = [found for record in records([*TOLD, *ENDED]) if (found := words.fold(record))]
    assert {word.moment for word in told} == {Moment.START, Moment.FAULT, Moment.RECOVERED, Moment.END}
    for word in told:
        assert differences(generic(word), Word) == []


def a_zygote() -> Any:
    key = SimpleNamespace(environment={"A": "1"})
    alive = {"alive": lambda: True, "usage": lambda: (0, 0), "close": lambda: None}
    return SimpleNamespace(pid=1, ready=True, key=key, **alive)


def test_a_look_at_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zygotes = NodeZygotes(60.0)
    zygotes._held = [_Held(a_zygote(), "", time.monotonic())]
    report = zygotes.report()
    zygotes.close()
    nodes = [
        overview.Node("a", "h", "10.0.0.1", 8.0, 0.0, zygotes=report),
        overview.Node("b", "i", "10.0.0.2", 8.0, 0.0),
    ]
    runs = [overview.LiveRun("live", 1, 8, "GPU", 2.0, 1e9, 7, "/runs/live")]
    monkeypatch.setattr(overview, "inspect_cluster", lambda: overview.Overview(nodes, runs))
    for name, timeline in (("lost", TOLD), ("done", [*TOLD, *ENDED])):
        journal = tmp_path / name / "journal.jsonl"
        journal.parent.mkdir(mode=0o700)
        journal.write_text("".join(f"{record_to_json(record)}\n" for record in records(timeline)))
    session: Any = SimpleNamespace(address=ADDRESS, dashboard_url=None)
    kept = WarmCluster(ADDRESS, None, None, 1, 1.0, 1.0, 60.0)
    for cluster in (None, kept):
        seen = json.loads(json.dumps(seen_by(session, cluster, str(tmp_path))))
        assert sorted(run["status"] for run in [*seen["runs"], *seen["ended_runs"]]) == [
            "finished",
            "lost",
            "running",
        ]
        assert differences(seen, ClusterSeen) == []


def test_what_a_run_spends(tmp_path: Path) -> None:
    ledger, config = Ledger(), composed("job=tiny_gpt", f"run_root={tmp_path}")
    note = SpendNote(config, "r", "GPU", ledger, pytest.fail)
    for record in records([*TOLD, *ENDED]):
        ledger.fold(record)
        note.observe(record, ledger.bill())
    assert differences(json.loads(note.path.read_text()), Spend) == []
    (group,) = spent_groups(tmp_path, ("project",), Wanted(), trust=False)
    assert differences(json.loads(json.dumps(dataclasses.asdict(group))), SpentGroup) == []


def test_the_papers_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    config = composed(
        "job=tiny_gpt", *CPU, f"run_root={tmp_path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    )
    directory = RunDirectory(tmp_path / "r")
    directory.hold()
    write_run_metadata(config, plan_of(config), "r", directory)
    assert (directory.path / "plan.txt").read_text() == f"{plan_of(config)}\n"
    directory.release()
    told = json.loads((directory.path / "tracking.json").read_text())
    assert differences(told, Tracking) == []
    assert differences(json.loads((directory.path / "plan.json").read_text()), Plan) == []
    # Nobody has said for whom; and outside of a repository the commit is not known.
    unknown = {"git_commit", "mlflow.source.git.commit", "project", "cost_center"}
    assert set(told["tags"]) | unknown == set(names.START_TAGS)
    assert told["tags"]["mlflow.user"] == user_name(), "as the note of what the run spends calls its owner"
    assert told["artifacts"] == list(names.START_ARTIFACTS)
    assert {key.partition(".")[0] for key in told["params"]} >= {"cluster", "layout", "version"}


def test_what_mlflow_is_told() -> None:
    projection, keys = Projection(2.0), set()
    for record in records([*TOLD, *ENDED]):
        keys |= {point.key for point in projection.fold(record) if not point.key.startswith("system/")}
    # A run has the hours of GPUs, or those of cores.
    of_cores = {names.hours_key("CPU core"), names.price_key("CPU core")}
    told = {*names.STEP_METRICS, *names.RUN_METRICS, *names.END_METRICS} - of_cores
    # A bucket that cost nothing has no word of its own.
    costly = {f"cost_usd_{bucket}" for bucket, cost in projection.ledger.bill().bucket_usd.items() if cost}
    assert {"cost_usd_training", "cost_usd_recovering"} <= costly <= set(names.BUCKET_USD_METRICS)
    assert keys == told - set(names.BUCKET_USD_METRICS) | costly
    assert set(projection.tags) - set(names.START_TAGS) == set(names.RUN_TAGS) - of_cores


def test_what_is_uploaded(tmp_path: Path) -> None:
    from orchestrator.ledger.mlflow.client import MlflowRun

    uploaded: set[str] = set()
    (tmp_path / "logs").mkdir()
    for name in (*names.START_ARTIFACTS, "journal.jsonl", "incidents.json", "logs/rank0.log", "secret.key"):
        (tmp_path / name).write_text("")
    run = MlflowRun(tmp_path, Tracking("sqlite:///x.db", "e", "r", artifacts=list(names.START_ARTIFACTS)))
    run.run_id = "1"
    run._client = SimpleNamespace(
        log_artifact=lambda _run, path: uploaded.add(Path(path).name),
        log_artifacts=lambda _run, _folder, name: uploaded.add(name),
    )
    run.upload()
    assert uploaded == {*names.START_ARTIFACTS, *names.END_ARTIFACTS}


def test_lines_of_the_journal() -> None:
    told = records(TOLD)
    for record in told:
        about = {field.name for field in dataclasses.fields(record.event)}
        assert set(json.loads(record_to_json(record))) - about == {"seq", "elapsed_s", "time_unix_s", "type"}
    lines = [json.loads(line_of(record, None)) for record in told if isinstance(record.event, StepDone)]
    assert {key for line in lines for key in line} == set(STEP_LINE)
    page = generate_reference.journal_section()
    assert all(f"| `{key}` | {meaning} |" in page for key, meaning in STEP_LINE.items())


class Sample(TypedDict):
    """Said of the whole. None where it is Tuesday."""

    told: int  # what it is
    maybe: int | None  # what it may be
    other: int | None  # the other one; null where there is one only


class Silent(TypedDict):
    size_bytes: int


class Unsure(TypedDict):
    size_bytes: int | None  # of something


def test_what_a_type_says_of_its_fields() -> None:
    assert [field.null for field in fields_of(Sample)] == [
        "",
        "where it is Tuesday",
        "where there is one only",
    ]
    for undescribed in (Silent, Unsure):
        with pytest.raises(
            ValueError, match=rf"{undescribed.__name__}.size_bytes: say in a comment what it is"
        ):
            fields_of(undescribed)


def test_a_key_too_many_or_too_few_and_a_null_are_told() -> None:
    good = {"told": 1, "maybe": None, "other": 2}
    assert differences([good], list[Sample]) == []
    assert differences([{**good, "more": 1}], list[Sample]) == ["[0].more is not described"]
    assert differences({"maybe": None, "other": 2}, Sample) == [".told is missing"]
    assert differences({**good, "told": None}, Sample) == [".told is null, and its type does not say so"]
