"""What the tables of layouts are made of, and how well errors of a size rank them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from benchmarks import planner_layouts, planner_profiles, planner_rows
from benchmarks.planner_accuracy import answers
from benchmarks.planner_fit import ROWS, load_constants
from benchmarks.planner_profiles import TABLE, Profile

CONSTANTS = load_constants()


@pytest.fixture(scope="module")
def layouts() -> planner_profiles.Layouts:
    rows = [row for row in planner_rows.read(ROWS) if row["table"] == TABLE]
    return planner_profiles.by_layout(planner_rows.cases(rows, CONSTANTS)[0])


def test_a_layer_of_vtrains_steps_takes_the_same_in_all_layouts(layouts: planner_profiles.Layouts) -> None:
    found = planner_profiles.layer_seconds(layouts)
    assert len(found) == 32
    assert all(max(seconds) < 1.001 * min(seconds) for seconds in found.values())
    doubled = {
        profile: seconds[0] < found[profile._replace(micro_batch=profile.micro_batch // 2)][0]
        for profile, seconds in found.items()
        if profile.micro_batch > 1
    }
    assert (len(doubled), sum(doubled.values())) == (24, 6)


def test_terms_say_how_far_rows_are_off_their_sum(layouts: planner_profiles.Layouts) -> None:
    key = Profile(1024, 2, 1), 1, 1
    law, off = planner_profiles.terms(layouts[key])
    assert off < 1e-4
    slower, strange = planner_profiles.terms(
        [
            replace(case, step_s=case.step_s * (1.1 if place == 0 else 1))
            for place, case in enumerate(layouts[key])
        ]
    )
    assert strange > 0.01
    assert slower[3] != pytest.approx(law[3], rel=1e-6)


def test_steps_that_are_right_are_ranked_and_chosen_right(layouts: planner_profiles.Layouts) -> None:
    profiles = {profile for profile, _, _ in layouts}
    assert planner_profiles.judged(layouts, dict.fromkeys(profiles, 0.0)) == (0.0, pytest.approx(1.0), 0.0)
    wrong = {profile: 0.004 if profile.tp == 1 else 0.0 for profile in profiles}
    error, correlation, regret = planner_profiles.judged(layouts, wrong)
    assert (error > 0.1, correlation < 0.95, regret > 0.01) == (True, True, True)


@pytest.mark.parametrize("power", planner_profiles.EXPONENTS)
def test_the_law_is_found_again_in_what_it_made(power: int) -> None:
    profiles = [Profile(1024, tp, micro) for tp in (1, 2, 4) for micro in (1, 2, 4, 8)]
    busy = {profile: (0.001 * profile.micro_batch / profile.tp, 0.0001) for profile in profiles}
    made = {}
    for profile, (compute, sends) in busy.items():
        host = 0.002 * (1 + 0.2 * math.log2(profile.tp))
        made[profile] = (host**power + (1.5 * compute + sends) ** power) ** (1 / power)
    assert planner_profiles.fitted(made, busy, power) == pytest.approx(made, rel=0.01)


def test_larger_errors_rank_worse() -> None:
    rows = [row for row in planner_rows.read(ROWS) if row["table"] == "bigscience_176b"]
    here, _ = answers(rows, CONSTANTS)
    draw = random.Random(0)
    right, worse = (
        planner_layouts.choices_by_table(planner_layouts.guessed(here, error, draw))["bigscience_176b"]
        for error in (0.0, 0.1)
    )
    assert (right.correlation, right.regret) == (pytest.approx(1.0), 0.0)
    assert worse.correlation is not None
    assert worse.correlation < 0.9
    assert worse.regret > 0.0
