"""Runs in groups, with mean and spread."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.ledger.mlflow.run_groups import grouped
from orchestrator.ledger.mlflow.runs import RunRow
from orchestrator.text import UNKNOWN


def row(place: int, **changes: Any) -> RunRow:
    plain: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(RunRow))
    plain |= {
        "run_id": str(place),
        "name": f"r{place}",
        "status": "finished",
        "settings": {},
        "bucket_usd": {},
    }
    return RunRow(**{**plain, **changes})


ROWS = st.lists(
    st.builds(
        lambda cluster, lr, status, cost: {
            "cluster": cluster, "settings": {"job.args.lr": lr}, "status": status, "cost_usd": cost
        },
        st.sampled_from(["a", "b", None]), st.sampled_from(["1e-3", "2e-3"]),
        st.sampled_from(["finished", "failed"]), st.none() | st.floats(0, 1e6),
    ),
    max_size=30,
).map(lambda many: [row(place, **one) for place, one in enumerate(many)])  # fmt: skip


@given(ROWS)
def test_the_means_weigh_to_the_whole_and_every_run_is_in_one_group(rows: list[RunRow]) -> None:
    groups = grouped(rows, ["cluster", "job.args.lr"]) if rows else []
    assert sorted(each for group in groups for each in group.run_ids) == sorted(one.run_id for one in rows)
    known = [one.cost_usd for one in rows if one.status == "finished" and one.cost_usd is not None]
    spreads = [group.figures["cost_usd"] for group in groups if "cost_usd" in group.figures]
    assert sum(one.n for one in spreads) == len(known)
    assert math.isclose(sum(one.n * one.mean for one in spreads), sum(known), rel_tol=1e-9, abs_tol=1e-6)
    whole = sum(one.cost_usd or 0.0 for one in rows)
    assert math.isclose(sum(group.cost_usd for group in groups), whole, rel_tol=1e-9, abs_tol=1e-6)
    assert all(one.deviation is None or one.deviation >= 0 for one in spreads)


def test_seeds_are_a_spread() -> None:
    rows = [
        row(seed, settings={"job.args.seed": str(seed)}, final_loss=loss)
        for seed, loss in enumerate((2.0, 2.2, 2.4))
    ]
    (group,) = grouped(rows, ["cluster"])
    spread = group.figures["final_loss"]
    assert (spread.n, spread.mean, spread.deviation) == (3, pytest.approx(2.2), pytest.approx(0.2))
    assert group.values == {"cluster": UNKNOWN}


def test_jobs_and_models_are_never_one_group() -> None:
    rows = [row(0, job="gpt", cluster="a"), row(1, job="bert", cluster="a")]
    assert [group.values for group in grouped(rows, ["cluster"])] == [
        {"job": "bert", "cluster": "a"},
        {"job": "gpt", "cluster": "a"},
    ]


def test_a_key_that_a_run_left_at_its_default_has_that_one() -> None:
    rows = [row(0, settings={"recovery.max_restarts": "9"}), row(1)]
    values = [group.values["recovery.max_restarts"] for group in grouped(rows, ["recovery.max_restarts"])]
    assert "9" in values
    assert UNKNOWN not in values


def test_numbers_stand_in_their_order_and_deepspeed_s_name_of_the_stage_is_known() -> None:
    rows = [row(place, settings={"layout.zero_stage": stage}) for place, stage in enumerate(("3", "1", "10"))]
    key = "deepspeed.zero_optimization.stage"
    assert [group.values[key] for group in grouped(rows, [key])] == ["1", "3", "10"]


def test_a_key_that_nothing_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--by job.args.lrr: .*did you mean 'job.args.lr'\?"):
        grouped([row(0, settings={"job.args.lr": "1"})], ["job.args.lrr"])
