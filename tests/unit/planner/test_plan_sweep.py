"""A sweep of plans: the Pareto front, the table, the picture, and the command line around them."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.cli import cli
from orchestrator.cli.show import sweep_table
from orchestrator.plan.layout.layout import Layout
from orchestrator.planner.sweep import (
    PlannedPoint,
    cheapest_first,
    label,
    pareto_front,
    row_of,
    rows_of,
    short,
    short_names,
    values_of,
    varying_keys,
)

# Few values, so that ties are common.
FIGURES = st.lists(st.tuples(st.integers(0, 12).map(float), st.integers(0, 12).map(float)), max_size=40)


def a_plan(days: float | None, cost_usd: float | None, paid: str = "on demand", **changed: Any) -> Any:
    """Stands in for a plan on 64 GPUs: what a row is made of, and JSON."""
    hours = None if days is None else days * 24
    prediction = SimpleNamespace(
        hours=hours,
        gpu_hours=None if hours is None else hours * 64,
        cost_usd=cost_usd,
        costs=(
            ()
            if cost_usd is None
            else (SimpleNamespace(paid=paid, capital_usd=9e6 if paid == "owned" else None),)
        ),
        tokens_per_s_per_gpu=None if hours is None else 10_000.0,
        mfu=None if hours is None else 0.41,
        forecast=None if hours is None else SimpleNamespace(goodput=0.8),
        step=(
            None
            if hours is None
            else SimpleNamespace(total_s=2.0, parts=lambda: {"matmul_s": 1.1, "tp_s": 0.9})
        ),
    )
    layout = Layout(8, 8, 64, 64, 1, 1, 1, 1, 0, False, False, "bf16", 1, 1, 64)
    plan = SimpleNamespace(
        prediction=prediction,
        layout=layout,
        memory=SimpleNamespace(total_bytes=40e9),
        gpu_memory_bytes=80e9,
        unit="GPU",
    )
    return SimpleNamespace(**{**vars(plan), **changed})


def points_of(figures: dict[str, tuple[float | None, float | None]]) -> list[PlannedPoint]:
    """Points by their overrides, separated by spaces, from days and USD."""
    return [PlannedPoint(tuple(words.split()), a_plan(*of_it)) for words, of_it in figures.items()]


def degrees_of(point: PlannedPoint, **degrees: int) -> None:
    plan: Any = point.plan
    plan.layout = dataclasses.replace(plan.layout, **degrees)


def table(points: list[PlannedPoint], path: Path, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    sweep_table.show_plans(points, path, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a PNG that ends as it should."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


# ---- the Pareto front ---------------------------------------------------------------------------


def no_worse(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1]


@given(FIGURES)
def test_no_point_of_the_front_is_undercut_and_every_other_point_is(
    figures: list[tuple[float, float]],
) -> None:
    front = pareto_front(figures)
    for place in front:
        assert not any(no_worse(other, figures[place]) for other in figures if other != figures[place])
    for place in set(range(len(figures))) - front:
        assert any(no_worse(figures[best], figures[place]) for best in front)
    on_front = [figures[place] for place in front]
    assert len(set(on_front)) == len(on_front), "of equal points one is kept"


@given(FIGURES.filter(len), st.randoms())
def test_the_front_does_not_depend_on_the_order(
    figures: list[tuple[float, float]], shuffler: random.Random
) -> None:
    shuffled = figures.copy()
    shuffler.shuffle(shuffled)
    assert {figures[place] for place in pareto_front(figures)} == {
        shuffled[p] for p in pareto_front(shuffled)
    }


@given(FIGURES)
def test_points_without_a_figure_are_not_on_the_front(figures: list[tuple[float, float]]) -> None:
    unknown: list[tuple[float | None, float | None]] = [(None, 0.0), (0.0, None), (None, None)]
    assert pareto_front([*figures, *unknown]) == pareto_front(figures)


# ---- rows and their names -----------------------------------------------------------------------


def test_a_row_is_what_the_plan_predicts_of_the_whole_run() -> None:
    row = row_of(["cluster=a"], a_plan(10.0, 1e5))
    assert (row.days, row.cost_usd, row.goodput) == (10.0, 1e5, 0.8)
    assert (row.tokens_per_s_per_gpu, row.memory_share, row.bill) == (10_000.0, 0.5, "on demand")
    assert row.bound_by == "matrix products, 55%"
    assert row.predicted


def test_a_plan_without_a_prediction_or_a_model_has_a_row() -> None:
    row = row_of([], a_plan(None, None, memory=None))
    assert not row.predicted
    assert {row.days, row.tokens_per_s_per_gpu, row.memory_share, row.goodput} == {None}


def test_rows_keep_the_order_of_the_sweep_and_sort_by_cost() -> None:
    points = points_of({"n=1": (5, 300), "n=2": (None, None), "n=3": (9, 100), "n=4": (4, 300)})
    rows = rows_of([*points, PlannedPoint(("n=5",), None, "too much")])
    assert [row.overrides["n"] for row in rows] == ["1", "2", "3", "4"]
    assert [row.overrides["n"] for row in rows if row.pareto] == ["3", "4"]
    assert [row.overrides["n"] for row in cheapest_first(rows)] == ["3", "4", "1", "2"]


def test_what_varies_is_what_is_shown() -> None:
    values = [values_of(words.split()) for words in ("cluster=a nodes=8 job=x", "cluster=b nodes=8 job=x")]
    assert varying_keys(values) == ["cluster"]
    assert varying_keys(values[:1]) == ["cluster", "nodes", "job"]
    assert varying_keys([]) == []


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    keys = ["cluster.nodes", "layout.tp", "job.args.tp"]
    names = short_names(keys)
    assert names == {"cluster.nodes": "nodes", "layout.tp": "layout.tp", "job.args.tp": "job.args.tp"}
    values = {"cluster": "aws_p5", "cluster.nodes": "8", "layout.recompute": "true"}
    assert label(values, list(values), short_names(list(values))) == "aws_p5, nodes=8, recompute=true"
    assert len(short("/" + "x" * 80)) == len(short("y" * 33)) == 32


def test_secrets_are_hidden_in_rows_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_table, "plan_json", lambda _plan: {})
    overrides = ("+env.HF_TOKEN=hf_secret", "+env.A=b=c")
    assert values_of(overrides) == {"env.HF_TOKEN": "***", "env.A": "b=c"}
    told = sweep_table.plans_json([PlannedPoint(overrides, a_plan(1, 1))])
    assert json.loads(told)[0]["overrides"] == ["+env.HF_TOKEN=***", "+env.A=b=c"]


# ---- the table ----------------------------------------------------------------------------------


def test_the_table_marks_the_front_and_says_what_is_refused(tmp_path: Path) -> None:
    points = points_of({"cluster=a n=8": (20, 5e5), "cluster=b n=8": (10, 6e5), "cluster=a n=4": (21, 7e5)})
    points += [PlannedPoint((f"cluster={name}", "n=4"), None, "model=x:\nneeds more") for name in "cd"]
    text = table(points, tmp_path / "at" / "plans.png")
    lines = text.splitlines()
    assert [line[0] for line in lines[:4]] == [" ", "*", "*", " "]
    assert [line.split()[:3] for line in lines[1:3]] == [["*", "a", "8"], ["*", "b", "8"]]
    assert "$500,000" in lines[1]
    assert "USD, on demand" in lines[0]
    assert "Refused: 2 of 5" in lines
    assert "  c, n=4; d, n=4: model=x: needs more" in lines, "the same reason is given once, in one line"
    assert f"picture: {tmp_path / 'at' / 'plans.png'}" in text


def test_bills_of_different_kinds_are_told_apart(tmp_path: Path) -> None:
    owned = PlannedPoint(("cluster=b",), a_plan(1, 200, "owned"))
    text = table([*points_of({"cluster=a": (1, 100)}), owned], tmp_path / "plans.png")
    assert "$100.00 on demand" in text
    assert "$200.00 owned" in text
    assert "$9M" in text.replace("9.00M", "9M"), "what buys the machines first"
    assert "paid alike" in text
    assert "without interest on the capital" in text
    rented = table(points_of({"cluster=a": (1, 100)}), tmp_path / "plans.png")
    assert not {"capital", "alike"} & set(rented.split())


def test_a_share_of_owned_machines_does_not_undercut_a_rent(tmp_path: Path) -> None:
    """Each way of paying has a front of its own, and what is bought stands below what is rented."""
    ways = {
        "a": (9, 300, "on demand"),
        "b": (5, 50, "owned"),
        "c": (6, 60, "owned"),
        "d": (8, 100, "assumed"),
    }
    points = [PlannedPoint((f"n={name}",), a_plan(*of_it)) for name, of_it in ways.items()]
    rows = rows_of(points)
    assert {row.overrides["n"] for row in rows if row.pareto} == {"a", "b", "d"}
    assert [row.overrides["n"] for row in cheapest_first(rows)] == ["d", "a", "b", "c"]


def test_a_narrow_terminal_leaves_columns_out_and_says_so(tmp_path: Path) -> None:
    points = points_of({"cluster=azure_nd_a100_v4": (20, 5e5), "cluster=aws_p5": (10, 6e5)})
    text = table(points, tmp_path / "plans.png", width=60)
    assert all(len(line) <= 60 for line in text.splitlines()[:3])
    assert "azure_nd_a100_v4" in text
    assert "not shown for lack of width:" in text
    assert "goodput" in text.split("not shown for lack of width:")[1]


def test_layouts_are_shown_where_they_differ_by_themselves(tmp_path: Path) -> None:
    points = points_of({"cluster=a": (1, 1), "cluster=b": (1, 1)})
    assert "layout" not in table(points, tmp_path / "plans.png", 180).splitlines()[0]
    assert points[0].plan is not None
    degrees_of(points[0], dp=32)
    assert "layout" not in table(points, tmp_path / "plans.png", 180).splitlines()[0]
    degrees_of(points[1], tp=8)
    assert "dp 64 × tp 8" in table(points, tmp_path / "plans.png", 180)


def test_a_picture_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    points = points_of({"n=1": (1, 2), "n=2": (2, 1)})
    assert f"no picture: {tmp_path / 'file' / 'plans.png'}: " in table(
        points, tmp_path / "file" / "plans.png"
    )


# ---- the command line ---------------------------------------------------------------------------

Call = Callable[..., tuple[int, str, str]]
SWEEP = ["-m", "job=llama3_8b", "cluster=aws_p5,azure_nd_a100_v4", "cluster.nodes=8"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``plan`` in this process, from an empty directory; nothing of a sweep stays in the temporary folder."""
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["orchestrator"])

    def run(*args: str) -> tuple[int, str, str]:
        code = cli.main(["plan", *args])
        told = capsys.readouterr()
        assert not list((tmp_path / "temporary").iterdir())
        return code, told.out, told.err

    return run


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_a_sweep_of_plans_is_one_table_and_a_picture(call: Call) -> None:
    code, out, err = call(*SWEEP, "job.global_batch=128,100")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:3] == ["cluster", "global_batch", "days"]
    assert "Refused: 2 of 4" in out
    assert "job.global_batch=100: not a multiple" in out
    (picture,) = files()
    assert picture.startswith("runs/sweeps/")
    assert f"picture: {picture}" in out
    assert png_size(Path(picture))[0] > 1000
    assert [path.name for path in Path(picture).parent.iterdir()] == ["plans.png"]


def test_a_sweep_as_json_is_a_list_in_its_order(call: Call) -> None:
    code, out, err = call(*SWEEP, "job.global_batch=128,100", "--json")
    assert (code, err) == (0, "")
    points = json.loads(out)
    assert [point["overrides"] for point in points] == [
        ["job=llama3_8b", f"cluster={cluster}", "cluster.nodes=8", f"job.global_batch={batch}"]
        for cluster in ("aws_p5", "azure_nd_a100_v4")
        for batch in (128, 100)
    ]
    for point in points[::2]:
        assert set(point) == {"overrides", "plan", "pareto"}
        assert point["plan"]["layout"]["global_batch"] == 128
    assert any(point["pareto"] for point in points[::2])
    assert all(set(point) == {"overrides", "refused"} for point in points[1::2])
    assert files() == []


def test_a_sweep_has_the_plans_that_its_points_have_alone(call: Call) -> None:
    swept = json.loads(call(*SWEEP, "--json")[1])[1]
    alone = json.loads(call(*swept["overrides"], "--json")[1])
    assert swept["plan"] == alone


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_sweep_without_a_possible_plan_is_refused(call: Call, flags: list[str]) -> None:
    code, out, err = call("-m", "job=llama3_8b", "cluster=aws_p5", "job.global_batch=7,9", *flags)
    assert code == 2
    assert err == "error: no plan of the sweep's 2 points is possible; each has its reason\n"
    assert out.count("not a multiple") == 2
    assert files() == []


def test_a_sweep_that_hydra_refuses_leaves_nothing_behind(call: Call) -> None:
    code, out, err = call("-m", "cluster=aws_p5,aws_p55")
    assert (code, out) == (2, "")
    assert "cluster=aws_p55: no such option; did you mean 'aws_p5'?" in err
    assert list(Path().iterdir()) == []


def test_points_without_a_prediction_have_rows_and_no_picture(call: Call) -> None:
    code, out, err = call("gpu=cpu", "cluster.gpus_per_node=2", "--multirun", "job.steps=5,6")
    assert (code, err) == (0, "")
    assert out.count("not predicted") == 2
    assert "picture" not in out
    assert list(Path().iterdir()) == []


def test_the_picture_goes_where_hydra_is_told_to_sweep(call: Call) -> None:
    code, out, _err = call(*SWEEP, "hydra.sweep.dir=mine")
    assert code == 0
    assert "picture: mine/plans.png" in out
    assert png_size(Path("mine/plans.png"))[0] > 1000
