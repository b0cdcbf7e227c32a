"""What is known of how long a job takes by those that have ended and those that go on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet.left import PRIOR_S, Claims, gittins_of
from orchestrator.fleet.trace import Floats

NONE_S, NONE = np.empty(0), np.empty(0, int)
durations = st.lists(st.floats(30.0, 1e6), max_size=30).map(lambda found: np.array(found, float))


@given(durations, st.sampled_from([0.0, 100.0, 5e4]))
def test_a_claim_is_the_greatest_odds_of_an_end_within_a_while_per_unit_of_it(
    ended_s: Floats, served: float
) -> None:
    beyond = np.concatenate([ended_s, PRIOR_S])
    gittins = gittins_of(ended_s, NONE_S)
    at = gittins.served[np.searchsorted(gittins.served, served, side="right") - 1]
    left = beyond[beyond > at] - at
    best = max((left <= while_s).sum() / np.minimum(left, while_s).sum() for while_s in left)
    assert gittins.claim(np.array([served])) == pytest.approx(best)


def test_of_a_young_queue_jobs_are_not_taken_to_be_as_short_as_those_that_have_ended() -> None:
    """Twenty of a minute have ended; as many have gone on for a day. Whoever has gone on for an hour is of
    their kind: it may go on for as long as they have, and longer."""
    ended_s, gpus = np.full(20, 60.0), np.full(20, 8)
    young = Claims(ended_s, gpus, np.full(20, 86400.0), gpus)
    known = Claims(ended_s, gpus, NONE_S, NONE)
    hour = np.array([3600.0])
    assert young.left_h(hour, gpus[:1]) > 2 * known.left_h(hour, gpus[:1])


@given(durations.filter(len), st.floats(31.0, 1e5))
def test_whoever_goes_on_makes_no_job_seem_shorter(ended_s: Floats, so_far_s: float) -> None:
    before, after = gittins_of(ended_s, NONE_S), gittins_of(ended_s, np.full(5, so_far_s))
    now = np.array([0.0])
    assert after.claim(now) <= before.claim(now) * (1 + 1e-9)
