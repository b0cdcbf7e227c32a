"""Shares and payments worked out in columns are those of going through the jobs one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fleet import sharing
from orchestrator.fleet.books import books_of
from orchestrator.fleet.choose import Table, paid
from orchestrator.fleet.figures import rows_of
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.fleet.world import World
from tests.support.fleet_worlds import queued, running, world, worlds


def _shared(of: World) -> sharing.Sharing:
    books = books_of(of, Policy())
    nobody = np.zeros(len(books.jobs), bool)
    return sharing.share_out(books, nobody, nobody)


@given(worlds(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_in_columns_and_one_by_one_is_the_same(of, plain):
    if plain:
        jobs = (
            replace(job, spec=replace(job.spec, preemptible=True, plans=job.spec.plans[:1]))
            for job in of.jobs
        )
        of = replace(of, jobs=tuple(jobs), teams=tuple(replace(team, borrow_limit=None) for team in of.teams))
    fast = _shared(of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "_promises_can_be_kept", lambda left: False)
        patch.setattr(sharing, "_is_plain", lambda books, rows: False)
        patch.setattr(sharing, "_could_be_owed", lambda books, left, rows: rows)
        slow = _shared(of)
    assert fast.pool.tolist() == slow.pool.tolist()
    assert fast.owed.tolist() == slow.owed.tolist()


@given(st.integers(0, 2**32 - 1), st.integers(-10, 40))
@settings(max_examples=150, deadline=None)
def test_what_leaves_is_what_the_starts_take(seed, free):
    rng = np.random.default_rng(seed)
    count = 20
    running_rows = np.arange(count) < 10
    table = Table(
        worth=rng.exponential(1.0, count), first=np.zeros(count, int), submitted_at=rng.random(count),
        gpus=rng.choice([1, 2, 4, 8, 16], count), running=running_rows, pinned=np.zeros(count, bool),
        left_h=rng.exponential(1.0, count), price_usd=rng.exponential(0.1, count), known=np.ones(count, bool),
    )  # fmt: skip
    starts = np.arange(10, 10 + int(rng.integers(1, 5)))
    need = int(table.gpus[starts].sum()) - free
    found = paid(table, starts, np.arange(10), free, np.zeros(count, bool))
    if need <= 0:
        assert found.stops == []
        return
    stopped = int(table.gpus[found.stops].sum())
    if need <= int(table.gpus[:10].sum()):
        assert stopped >= need
        assert int(found.parts.sum()) == need
        assert all(stopped - int(table.gpus[row]) < need for row in found.stops)
    assert (found.parts > 0).all()
    taken = np.bincount(found.from_stop, weights=found.parts, minlength=len(found.stops))
    assert (taken <= table.gpus[found.stops]).all()
    given_to = dict(zip(found.to_row.tolist(), found.parts.tolist(), strict=False))
    assert set(given_to) <= set(starts.tolist())
    for row in found.stops:
        assert found.takers(row)


def test_a_job_that_has_changed_is_read_anew():
    job = queued("j", 8, 2.0)
    assert (rows_of([job])["hours"], rows_of([job])["running"]) == (2.0, 0.0)
    other = replace(job, spec=replace(job.spec, usd_per_hour=7.0), submitted_at=5.0)
    assert (rows_of([other])["usd_per_hour"], rows_of([other])["submitted_at"]) == (7.0, 5.0)
    assert rows_of([running("r", (0, 4), (1, 8))])["gpus"] == 12


def test_a_team_without_a_quota_gets_what_is_lent():
    teams = (Team("nlp", quota=(("h100", 8),)), Team("cv"))
    found = _shared(world(queued("a", 8), queued("b", 8), queued("c", 8, team="cv"), teams=teams))
    assert sorted(found.owed.tolist()) == [False, False, True]
    assert (found.pool == 0).all()
