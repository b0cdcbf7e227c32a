"""The picture of a sweep: what is drawn and labelled, and what finds no room."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from orchestrator.cli.show import sweep_picture
from orchestrator.planner.sweep import (
    PlannedPoint,
    PlanRow,
    rows_of,
)
from tests.unit.planner.test_plan_sweep import png_size, points_of, table

# ---- the picture --------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def drawn(rows: list[PlanRow], path: Path) -> str:
    return sweep_picture.draw([row for row in rows if row.predicted], path)


def labels(figure: Figure) -> list[Any]:
    return [text for text in figure.axes[0].texts if text.get_text()]


def random_rows(count: int, seed: int) -> list[PlanRow]:
    chance = random.Random(seed)
    words = itertools.product(("aws_p5", "azure_nd_h100_v5"), range(math.ceil(count / 2)))
    return rows_of(points_of({
        f"cluster={cluster} cluster.nodes={nodes}": (chance.lognormvariate(3, 1), chance.lognormvariate(12, 1))
        for cluster, nodes in itertools.islice(words, count)
    }))  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_each_other_nor_a_point(
    tmp_path: Path, figures: list[Figure], seed: int
) -> None:
    rows = random_rows(24, seed)
    assert drawn(rows, tmp_path / "plans.png") == ""
    axes = figures[0].axes[0]
    boxes = [text.get_window_extent() for text in labels(figures[0])]
    assert len(boxes) == 24
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    spots = axes.transData.transform([(row.days, row.cost_usd) for row in rows])
    for box in boxes:
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1
        assert not any(box.contains(x, y) for x, y in spots)


def test_the_picture_is_a_png_with_the_points_the_front_and_log_axes(
    tmp_path: Path, figures: list[Figure]
) -> None:
    rows = rows_of(
        points_of({"n=1": (100, 1e5), "n=2": (10, 1.2e5), "n=3": (None, None), "n=4": (11, 1.3e5)})
    )
    assert drawn(rows, tmp_path / "new" / "plans.png") == ""
    width, height = png_size(tmp_path / "new" / "plans.png")
    assert 1000 <= width <= 2000
    assert 600 <= height <= 1200
    axes = figures[0].axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [tuple(point) for point in axes.lines[0].get_xydata()] == [(10.0, 1.2e5), (100.0, 1e5)]
    assert axes.get_ylabel() == "cost, USD on demand"
    assert {text.get_text() for text in labels(figures[0])} == {"n=1", "n=2", "n=4"}


def test_the_title_says_what_does_not_vary(tmp_path: Path, figures: list[Figure]) -> None:
    points = points_of({"job=x cluster=a n=1": (1, 1), "job=x cluster=a n=2": (2, 1)})
    refused = PlannedPoint(("job=x", "cluster=b", "n=1"), None, "too much")
    table([*points, refused], tmp_path / "plans.png")
    assert figures[0].legends[0].get_title().get_text() == "Cost against time: x, a"


def test_of_many_points_the_front_is_labelled_and_that_is_said(tmp_path: Path, figures: list[Figure]) -> None:
    rows = random_rows(100, seed=0)
    note = drawn(rows, tmp_path / "plans.png")
    assert note == "only the Pareto front is labelled"
    assert len(labels(figures[0])) == sum(row.pareto for row in rows)
    assert note in {figures[0].axes[0].get_title(loc="right")}


def test_labels_that_find_no_room_are_counted(tmp_path: Path, figures: list[Figure]) -> None:
    points = points_of({f"layout={'x' * 30}{n} n={n}": (10 + n / 1e4, 1e5 + n) for n in range(30)})
    note = drawn(rows_of(points), tmp_path / "plans.png")
    assert note.endswith("left out for lack of room")
    assert int(note.split()[0]) + len(labels(figures[0])) == 30


def test_the_picture_takes_short_runs_free_ones_and_odd_names(tmp_path: Path, figures: list[Figure]) -> None:
    points = points_of({"n=$1 x=_a": (0.001, 0.0), "n=$2 x=b$": (0.02, 0.0), "n=3 x=": (0.02, 0.0)})
    drawn(rows_of(points), tmp_path / "plans.png")
    assert figures[0].axes[0].get_xlabel() == "time, hours"
    png_size(tmp_path / "plans.png")


def test_colour_stands_for_the_override_that_would_make_labels_longest() -> None:
    rows = random_rows(6, seed=1)
    assert sweep_picture.series_key(rows, ["cluster.nodes", "cluster"]) == "cluster"
    assert sweep_picture.series_key(rows, ["cluster"]) is None
    assert sweep_picture.series_key(random_rows(40, 1), ["cluster.nodes"]) is None


@given(st.floats(0.001, 1e12))
def test_ticks_say_their_value(value: float) -> None:
    said = sweep_picture.tick(value)
    size = {"k": 1e3, "M": 1e6, "B": 1e9}.get(said[-1], 1.0)
    assert float(said.rstrip("kMB")) * size == pytest.approx(value, rel=1e-3)


# ---- the legend ---------------------------------------------------------------------------------

MANY = {
    "cluster=aws_p5 cluster.nodes=1": (10.0, 100.0),
    "cluster=aws_p5 cluster.nodes=2": (6.0, 120.0),
    "cluster=dgx_h100 cluster.nodes=1": (12.0, 150.0),
    "cluster=dgx_h100 cluster.nodes=2": (5.0, 180.0),
}


def test_the_legend_has_the_marks_that_are_drawn_filled_and_hollow(
    tmp_path: Path, figures: list[Figure]
) -> None:
    drawn(rows_of(points_of(MANY)), tmp_path / "plans.png")
    legend = figures[0].legends[0]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        "aws_p5",
        "dgx_h100",
        "filled: on the Pareto front; hollow: another is cheaper and no slower",
    ]
    faces = [tuple(collection.get_facecolor()[0]) for collection in legend.findobj(PathCollection)]
    assert sum(face[:3] == (1.0, 1.0, 1.0) for face in faces) == len(faces) / 2 == 2


def test_a_picture_whose_points_are_of_one_kind_explains_its_marks_too(
    tmp_path: Path, figures: list[Figure]
) -> None:
    drawn(rows_of(points_of({"cluster.nodes=1": (10, 1), "cluster.nodes=2": (5, 2)})), tmp_path / "p.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "filled: on the Pareto front; hollow: another is cheaper and no slower"
    ]


def test_no_path_stands_in_the_title_of_a_picture(tmp_path: Path, figures: list[Figure]) -> None:
    more = {
        f"job.corpus=/data/books run_root=/tmp/runs model=llama3_8b {key}": of for key, of in MANY.items()
    }
    drawn(rows_of(points_of(more)), tmp_path / "plans.png")
    assert figures[0].legends[0].get_title().get_text() == "Cost against time: llama3_8b"


def test_what_is_owned_is_marked_beside_what_is_rented(tmp_path: Path, figures: list[Figure]) -> None:
    rows = rows_of(points_of(MANY))
    owned = [
        replace(row, bill="owned" if row.overrides["cluster"] == "dgx_h100" else "on demand") for row in rows
    ]
    drawn(owned, tmp_path / "plans.png")
    assert sorted(text.get_text() for text in labels(figures[0])) == [
        "nodes=1, on demand",
        "nodes=1, owned",
        "nodes=2, on demand",
        "nodes=2, owned",
    ]
