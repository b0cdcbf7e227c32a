"""The comparison, over runs that the ledger itself wrote into a SQLite store."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.compare import compare
from orchestrator.cli.show.runs_export import to_csv, to_json
from orchestrator.cli.show.runs_table import print_table
from orchestrator.errors import ConfigError
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    Outcome,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.mlflow.differences import differing, with_differences
from orchestrator.ledger.mlflow.projection import MLFLOW_STATUS, Projection
from orchestrator.ledger.mlflow.run_columns import COLUMNS, best_value
from orchestrator.ledger.mlflow.run_table import parse_sort, runs, sort_runs
from orchestrator.ledger.mlflow.runs import RunRow, load_histories, load_runs

RUN = RunStarted("night", "gpt", "lab", "H100", 4, 2.5, "GPU", 5, 1000, 1e9, 1e12)
REQUIRED = {
    *("run_id", "name", "status", "cluster", "gpu_type", "gpus", "tokens", "tokens_per_s", "mfu"),
    *("gpu_hours", "cost_usd", "cost_usd_per_million_tokens", "goodput", "restarts", "final_loss"),
}


def story(
    run: RunStarted, step_s: float, loss: float, status: Status | None
) -> Iterator[tuple[float, Event]]:
    yield 0, run
    yield 0, ResourcesGranted(["n"], run.gpus)
    yield 0, AttemptStarted(1, "h", 1, run.gpus)
    for number in range(1, 6):
        yield 10 + number * step_s, StepDone(1, number, step_s, loss)
    if status:
        yield 20 + 5 * step_s, AttemptEnded(1, Outcome.FINISHED, 5)
        yield 21 + 5 * step_s, ResourcesReleased()
        yield 21 + 5 * step_s, RunEnded(status, "because")


def record_run(directory: Path, uri: str, run: RunStarted, began_s: float, *how: object) -> Bill:
    """What the sink does, without its process."""
    from orchestrator.ledger.mlflow.client import MlflowRun
    from orchestrator.ledger.mlflow.tracking_file import Tracking

    run_dir = directory / run.run
    run_dir.mkdir()
    mlflow_run = MlflowRun(run_dir, Tracking(uri, "exp", run.run))
    projection = Projection(2.0)
    points = []
    for seq, (at, event) in enumerate(story(run, *how)):  # type: ignore[arg-type]
        points += projection.fold(Record(seq, at, began_s + at, event))
    mlflow_run.open(projection.first_ms)
    mlflow_run.write(points, seq)
    mlflow_run.write_tags(projection.tags)
    if projection.ended:
        mlflow_run.end(MLFLOW_STATUS[projection.ended.status], projection.last_ms)
    return projection.ledger.bill()


@pytest.fixture(scope="module")
def bills() -> dict[str, Bill]:
    return {}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, bills: dict[str, Bill]) -> str:
    directory = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{directory}/db/mlflow.db"
    other = {"cluster": "cloud", "gpu_type": "A100", "gpus": 8, "tokens_per_step": None}
    for began_s, name, changes, how in [
        (1.7e9, "first", {}, (2.0, 3.0, Status.FINISHED)),
        (1.7e9 + 100, "second", {"price_usd_per_gpu_hour": 9.0}, (1.0, 2.5, Status.FINISHED)),
        (1.7e9 + 200, "third", other, (1.0, float("nan"), Status.FAILED)),
        (1.7e9 + 300, "fourth", {}, (0.5, 1.0, None)),
    ]:
        run = dataclasses.replace(RUN, run=name, **changes)  # type: ignore[arg-type]
        bills[name] = record_run(directory, uri, run, began_s, *how)
    return uri


def text_of(uri: str, output: str, sort: str | None = None, limit: int = 100, width: int = 200) -> str:
    console = Console(file=(file := io.StringIO()), width=width)
    compare(uri, "exp", sort, output, limit, console)  # type: ignore[arg-type]
    return file.getvalue()


def test_json_has_the_bills_newest_first(uri: str, bills: dict[str, Bill]) -> None:
    rows = json.loads(text_of(uri, "json"), parse_constant=lambda name: pytest.fail(name))
    assert [row["name"] for row in rows] == ["fourth", "third", "second", "first"]
    assert rows[0].keys() >= REQUIRED
    assert [row["status"] for row in rows] == ["running", "failed", "finished", "finished"]
    for row in rows[1:]:
        bill = bills[row["name"]]
        for name in ("tokens", "tokens_per_s", "mfu", "gpu_hours", "cost_usd", "goodput", "restarts"):
            expected = getattr(bill, name)
            assert row[name] == (None if expected is None else pytest.approx(expected)), name
            assert not isinstance(row[name], str)
    first, third = rows[3], rows[1]
    assert first["cost_usd_per_million_tokens"] == pytest.approx(bills["first"].cost_usd / 0.005)
    assert (first["final_loss"], first["gpus"], first["cluster"], first["gpu_type"]) == (
        3.0,
        4,
        "lab",
        "H100",
    )
    assert (third["final_loss"], third["tokens"], third["mfu"], third["gpus"]) == (None, None, None, 8)
    assert first["started_at"] == "2023-11-14T22:13:20+00:00"


def test_csv_has_the_same_values(uri: str) -> None:
    rows = list(csv.DictReader(io.StringIO(text_of(uri, "csv", "cost_usd"))))
    assert [row["name"] for row in rows[:2]] == ["fourth", "first"]
    assert float(rows[1]["gpu_hours"]) == json.loads(text_of(uri, "json"))[3]["gpu_hours"]
    assert next(row for row in rows if row["name"] == "third")["mfu"] == ""


def test_limit_keeps_the_newest(uri: str) -> None:
    assert [row["name"] for row in json.loads(text_of(uri, "json", limit=2))] == ["fourth", "third"]


def test_the_table_marks_the_best_finished_run(uri: str) -> None:
    lines = text_of(uri, "table").splitlines()
    cells = {line.split()[0]: line for line in lines[1:5]}
    assert [line.split()[0] for line in lines[1:5]] == ["fourth", "third", "second", "first"]
    assert "2.500*" in cells["second"], "lowest loss"
    assert "1k*" in cells["second"], "most tokens/s"
    assert "*" not in cells["fourth"], "a running run has not won yet"
    assert "*" not in cells["third"]
    assert cells["first"].count("*") == 3, "cheapest in all, cheapest per token, and the better goodput"
    assert lines[5] == "* best of the finished runs"


FILTERS = [
    "metrics.cost_usd > 0.02",
    "metrics.cost_usd > 0.02 and tags.cluster = 'lab'",
    "tags.job = 'gpt' and tags.status != 'finished'",
    "params.`job.args.lr` = '1'",
    "attributes.status = 'FINISHED'",
    "run_name LIKE 'f%'",
    "attributes.start_time > 1700000150000",
    "metrics.`seconds_training` >= 5",
]


@pytest.mark.parametrize("asked", FILTERS)
def test_a_filter_means_what_it_means_to_mlflow(uri: str, asked: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("exp")
    expected = [run.info.run_id for run in client.search_runs([experiment.experiment_id], asked)]
    if not expected:
        with pytest.raises(ConfigError, match="no run of experiment 'exp' passes it"):
            load_runs(uri, "exp", 100, filter_string=asked)
        return
    found = load_runs(uri, "exp", 100, filter_string=asked)
    assert [row.run_id for row in found] == expected


def test_what_is_read_from_the_tables_is_what_mlflow_says(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    from orchestrator.ledger.mlflow.runs import _row

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("exp")
    told = [_row(run) for run in client.search_runs([experiment.experiment_id])]
    assert load_runs(uri, "exp", 100) == told
    for key in ("loss", "cost_usd"):
        ours = load_histories(uri, [key], [row.run_id for row in told])[key]
        for row in told:
            points = client.get_metric_history(row.run_id, key)
            theirs = sorted((one.timestamp, one.step, one.value) for one in points if one.value == one.value)
            assert ours.get(row.run_id, []) == theirs


@pytest.mark.parametrize("wrong", ["metrics.cost_usd <", "cost", "metrics.a = 'b", "metrics.cost_usd < 'x'"])
def test_a_filter_that_is_none_is_one_line_with_what_one_is(uri: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"--filter .*; as in \"metrics\.cost_usd < 100") as caught:
        load_runs(uri, "exp", 100, filter_string=wrong)
    assert "\n" not in str(caught.value)


def test_what_a_loss_cost_is_read_between_the_bills(uri: str, bills: dict[str, Bill]) -> None:
    rows = {row.name: row for row in runs("exp", uri=uri, to_loss=2.7)}
    second = rows["second"]
    assert second.usd_to_loss is not None
    assert 0 < second.usd_to_loss < bills["second"].cost_usd
    assert second.gpu_hours_to_loss == pytest.approx(second.usd_to_loss / 9.0)
    assert (second.steps_to_loss, second.hours_to_loss) == (1, pytest.approx(11 / 3600))
    assert (rows["first"].usd_to_loss, rows["first"].best_loss) == (None, 3.0)
    assert rows["third"].best_loss is None, "its losses are no numbers"
    with pytest.raises(ConfigError, match="is no number that a loss can have"):
        runs("exp", uri=uri, to_loss=float("nan"))
    text = io.StringIO()
    compare(uri, "exp", None, "table", 100, Console(file=text, width=300), to_loss=2.7)
    assert "best 3.000" in text.getvalue()
    assert "2 of 4 runs came to it" in text.getvalue()


def test_groups_are_shown_and_written(uri: str) -> None:
    def text_by(output: str, *keys: str) -> str:
        text = io.StringIO()
        compare(uri, "exp", None, output, None, Console(file=text, width=200), by=keys)  # type: ignore[arg-type]
        return text.getvalue()

    groups = json.loads(text_by("json", "cluster"))
    assert [(one["values"]["cluster"], one["runs"], one["finished"]) for one in groups] == [
        ("cloud", 1, 0),
        ("lab", 3, 2),
    ]
    (lab,) = [line for line in text_by("table", "cluster").splitlines() if line.startswith("lab")]
    assert "2 (+1)" in lab
    written = list(csv.DictReader(io.StringIO(text_by("csv", "cluster"))))
    assert float(written[1]["cost_usd"]) == pytest.approx(groups[1]["figures"]["cost_usd"]["mean"])
    with pytest.raises(ConfigError, match=r"--by clutser: no run has it .*did you mean 'cluster'"):
        text_by("table", "clutser")


def row(name: str = "r", **changes: object) -> RunRow:
    values = {field.name: None for field in dataclasses.fields(RunRow)} | {"settings": {}, "bucket_usd": {}}
    return RunRow(**(values | {"run_id": name, "name": name, "status": "finished"} | changes))  # type: ignore[arg-type]


def lines_of(rows: list[RunRow], width: int = 120) -> list[str]:
    console = Console(file=(file := io.StringIO()), width=width)
    print_table(rows, console)
    return file.getvalue().splitlines()


def test_the_keys_of_a_sweep_are_columns_and_what_follows_from_them_is_none() -> None:
    swept = [
        {"job.args.lr": lr, "job.steps": steps, "job.args.steps": steps, "run_name": f"r{lr}{steps}", "layout.dp": "2",
         "recovery.max_restarts": "3", "deepspeed.gradient_accumulation_steps": steps}
        for lr, steps in (("1e-3", "50"), ("1e-3", "90"), ("2e-3", "50"))
    ]  # fmt: skip
    rows = [row(f"r{place}", job="gpt", model="tiny", settings=one) for place, one in enumerate(swept)]
    assert differing(rows) == ["job.args.lr", "job.steps"]
    header, first, *_ = lines_of(with_differences(rows), width=200)
    assert header.split()[:3] == ["run", "lr", "steps"]
    assert first.split()[:3] == ["r0", "1e-3", "50"]
    assert to_csv(with_differences(rows)).splitlines()[0].endswith(",job.args.lr,job.steps")
    assert json.loads(to_json(with_differences(rows)))[2]["settings"] == {
        "job.args.lr": "2e-3",
        "job.steps": "50",
    }


def test_runs_of_other_jobs_and_models_are_not_compared() -> None:
    mixed = [
        row("a", job="gpt", model="tiny", final_loss=2.0), row("b", job="gpt", model="tiny", final_loss=3.0),
        row("c", job="gpt", model="large", final_loss=1.0, settings={"job.args.lr": "1"}),
        row("d", job="other", model="tiny", final_loss=0.5, settings={"job.args.lr": "2"}),
    ]  # fmt: skip
    lines = lines_of(mixed, width=160)
    assert [line.split()[0] for line in lines if "*" in line] == ["a", "*"], "the best of the only two alike"
    assert lines[-1] == "* best of the finished runs of the same job and model"
    assert differing(mixed) == []


def test_what_cost_nothing_stands_apart() -> None:
    refused = row("refused", status="failed", cost_usd=0.0, gpu_hours=0.0)
    *_, last = lines_of([row("a", cost_usd=2.0, gpu_hours=1.0), refused])
    assert last == "refused or ended before they held anything, and cost nothing: refused"
    assert any("refused" in line for line in lines_of([refused])[1:]), (
        "where there are no others it is the table"
    )


WIDE = [
    row(
        "a-name-that-is-much-longer-than-any-terminal-likes",
        cluster="lab",
        gpus=8,
        gpu_type="H100",
        unit="GPU",
        tokens=10**9,
        tokens_per_s=5e4,
        mfu=0.4,
        gpu_hours=10.0,
        cost_usd=25.0,
        goodput=0.9,
        cost_usd_per_million_tokens=0.025,
        restarts=1,
        final_loss=2.5,
    ),
    row("b", cost_usd=20.0, unit="GPU"),
]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 250])
def test_a_narrow_terminal_gets_a_second_line_and_keeps_what_runs_cost(width: int) -> None:
    console = Console(file=(file := io.StringIO()), width=width)
    print_table(WIDE, console)
    lines, wide = file.getvalue().splitlines(), width >= 250
    table = lines[:3] if wide else lines[:6]
    assert all(len(line) <= width for line in table)
    assert [line.startswith("  ") for line in table] == ([False] * 3 if wide else [False, True] * 3)
    said, notes = "\n".join(table), " ".join(lines[len(table) :])
    assert "$25.00" in said
    assert "$20.00*" in said
    for column in ("cost", "$/M tokens", *(["GPU-hours"] if width >= 60 else [])):
        assert column in said, "no width drops it"
    titles = sum(column.title in said for column in COLUMNS)
    assert (titles == len(COLUMNS)) == ("not shown for lack of width" not in notes)
    assert titles == len(COLUMNS) or width < 120


def test_runs_of_one_day_are_told_apart_where_their_names_do_not_fit() -> None:
    console = Console(file=(file := io.StringIO()), width=80)
    print_table([row(f"llama3_70b-20261122-18313{second}-0455e52c") for second in (4, 5)], console)
    assert "4-0455e52c" in file.getvalue()
    assert "5-0455e52c" in file.getvalue()


def test_best_needs_two_finished_runs_to_compare() -> None:
    cost, mfu, name = (next(one for one in COLUMNS if one.key == key) for key in ("cost_usd", "mfu", "name"))
    assert best_value(cost, [row(cost_usd=1.0)]) is None
    assert best_value(cost, [row(cost_usd=1.0), row(cost_usd=0.5, status="running")]) is None
    two = [row(cost_usd=2.0, mfu=0.1), row(cost_usd=3.0, mfu=0.2)]
    assert [best_value(column, two) for column in (cost, mfu, name)] == [2.0, 0.2, None]


def test_hours_are_named_after_a_common_unit() -> None:
    def header(*units: str) -> str:
        console = Console(file=(file := io.StringIO()), width=250)
        print_table([row(unit=unit) for unit in units], console)
        return file.getvalue().splitlines()[0]

    assert "core-hours" in header("CPU core", "CPU core")
    assert "GPU-hours" in header("CPU core", "GPU")


def test_sorting_is_best_first_unless_told_and_unknown_last() -> None:
    rows = [row("a", mfu=0.1), row("b"), row("c", mfu=0.3), row("d", mfu=0.2)]
    order = {
        s: "".join(r.name for r in sort_runs(rows, *parse_sort(s))) for s in ("mfu", "mfu:asc", "mfu:desc")
    }
    assert order == {"mfu": "cdab", "mfu:asc": "adcb", "mfu:desc": "cdab"}
    assert parse_sort("cost_usd") == ("cost_usd", False)
    assert parse_sort("started_at") == ("started_at", True)


@pytest.mark.parametrize(
    ("sort", "said"), [("cost_us", "did you mean 'cost_usd'?"), ("mfu:up", "neither asc nor desc")]
)
def test_a_wrong_sort_is_refused_before_mlflow_is_asked(sort: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        compare("http://127.0.0.1:9", "exp", sort, "table", 10, Console(file=io.StringIO()))


def test_nothing_to_compare_says_how_to_make_a_run(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no experiment 'exq'; did you mean 'exp'\? .*orchestrator job="):
        load_runs(uri, "exq", 10)
    with pytest.raises(ConfigError, match=r"no runs yet: .*mlflow.db does not exist; .*orchestrator job="):
        load_runs(f"sqlite:///{tmp_path}/mlflow.db", "exp", 10)
    assert not list(tmp_path.iterdir()), "looking makes no database"


def test_an_experiment_without_runs_says_so_too(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"no runs yet in experiment 'Default'; .*orchestrator job="):
        load_runs(uri, "Default", 10)


def test_json_never_holds_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json([row(mfu=float("nan"))])
