"""What a penalty does to what a job is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet.decide import decide
from orchestrator.fleet.decisions import Start
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.worth import delay_usd_per_hour
from tests.support.fleet_worlds import NOW, POOL, queued, world

POLICY = Policy()
HOURS = st.floats(0.01, 1000.0)


def delay(slack_h: float, left_h: float, penalty_usd: float) -> float:
    columns = [np.array([one]) for one in (2.0, 60.0, left_h, slack_h, left_h)]
    usd, waited_s, predicted_h, slack, left = columns
    found = delay_usd_per_hour(usd, waited_s, predicted_h, slack, left, POLICY, np.array([penalty_usd]))
    return float(found[0])


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6), HOURS, HOURS, HOURS)
def test_more_to_lose_and_less_time_until_then_never_make_a_job_worth_less(
    less_usd: float, more_usd: float, slack_h: float, further_h: float, left_h: float
) -> None:
    less_usd, more_usd = sorted((less_usd, more_usd))
    assert delay(slack_h, left_h, less_usd) <= delay(slack_h, left_h, more_usd)
    assert delay(slack_h + further_h, left_h, more_usd) <= delay(slack_h, left_h, more_usd) * (1 + 1e-12)


@given(st.floats(1.0, 1e6), HOURS, HOURS)
def test_what_is_lost_already_or_cannot_be_counts_for_nothing(
    penalty_usd: float, late_h: float, left_h: float
) -> None:
    for slack_h in (-late_h, np.inf):
        assert delay(slack_h, left_h, penalty_usd) == delay(slack_h, left_h, 0.0)


@given(st.floats(1.0, 1e6), HOURS, HOURS)
def test_it_is_spread_over_the_time_that_there_is(penalty_usd: float, slack_h: float, left_h: float) -> None:
    added = delay(slack_h, left_h, penalty_usd) - delay(slack_h, left_h, 0.0)
    boost = POLICY.deadline_boost if slack_h < left_h / 2 + POLICY.deadline_slack_s / 3600 else 1.0
    assert np.isclose(added, boost * penalty_usd / (slack_h + left_h), rtol=1e-6)


def test_of_two_alike_the_one_with_more_to_lose_starts() -> None:
    due = {"deadline_at": NOW + 40 * 3600.0}
    jobs = queued("a", 8, 2.0, **due), queued("b", 8, 2.0, penalty_usd=500.0, **due)
    found = [
        one.job for one in decide(world(*jobs, pool=replace(POOL, nodes=1)), POLICY) if isinstance(one, Start)
    ]
    assert found == ["b"]
