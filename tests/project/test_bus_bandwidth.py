"""The planner's collectives beside published bus bandwidths, row by row."""

from __future__ import annotations

import pytest

from benchmarks import bus_bandwidth
from benchmarks.bus_bandwidth import Compared, compared, mean_abs_error

# The least exact rows that the model is of, each with its reason in docs/planner_validation.md.
KNOWN = {"Azure NDm A100 v4, 1 GPU a node": 0.27, "PCIe 4.0 x16": 0.2, "MI300X node": 0.13}


@pytest.fixture(scope="module")
def rows() -> list[Compared]:
    return compared()


def test_every_platform_is_near_what_was_published(rows: list[Compared]) -> None:
    assert len(rows) == 35
    assert mean_abs_error(rows) < 0.05
    far = [row for row in rows if not row.beyond and abs(row.error) > KNOWN.get(row.platform, 0.1)]
    assert far == []


def test_what_the_model_leaves_out_makes_it_slow_and_never_fast(rows: list[Compared]) -> None:
    assert all(row.error < -0.1 for row in rows if row.beyond)


def test_the_document_has_the_rows_of_today(rows: list[Compared]) -> None:
    page = " ".join(bus_bandwidth.PAGE.read_text().split())
    assert " ".join(bus_bandwidth.page(rows).split()) in page, "python -m benchmarks.bus_bandwidth --write"
