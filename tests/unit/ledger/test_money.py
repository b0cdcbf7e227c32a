"""Where the money of a run went: the parts make up the bill, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import Record
from orchestrator.ledger.bill import Bucket
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.money import LOST
from tests.support.timelines import TIMELINES

CENT = 0.01


@settings(max_examples=200, deadline=None)
@given(TIMELINES, st.floats(0, 100))
def test_buckets_and_attempts_make_up_the_bill_to_the_cent(timeline: list[Record], ahead_s: float) -> None:
    ledger = Ledger().fold_all(timeline)
    now_s = (timeline[-1].elapsed_s if timeline else 0.0) + ahead_s
    for at_s in (None, now_s):
        bill, money = ledger.bill(at_s), ledger.money(at_s)
        assert (money.cost_usd, money.gpu_hours) == (bill.cost_usd, bill.gpu_hours)
        for shares in (money.buckets, money.attempts):
            assert sum(each.cost_usd for each in shares) == pytest.approx(bill.cost_usd, abs=CENT / 100)
            assert sum(each.gpu_hours for each in shares) == pytest.approx(bill.gpu_hours, abs=1e-9)
            assert all(each.gpu_hours >= 0 for each in shares)
        blamed = sum(each.cost_usd for each in money.incidents)
        recovered = [
            each.cost_usd for each in money.buckets if each.name in (Bucket.RECOVERING, Bucket.REDONE)
        ]
        assert blamed <= sum(recovered) + CENT / 100
        assert money.lost_usd == pytest.approx(
            sum(cost for bucket, cost in bill.bucket_usd.items() if bucket in LOST), abs=CENT / 100
        )


def test_every_bucket_is_lost_or_is_not() -> None:
    assert set(Bucket) - set(LOST) == {Bucket.WAITING, Bucket.TRAINING, Bucket.UNOBSERVED}
