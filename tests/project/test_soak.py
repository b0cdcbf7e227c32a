"""What the soak chooses: the same for the same seed, and all of it sooner or later."""

from __future__ import annotations

from tests.faults.night import planned
from tests.faults.night_here import DISKS, PROCESSES, SERVER
from tests.faults.night_on_hosts import STRIKES

KINDS = [*PROCESSES, *DISKS, *SERVER, *STRIKES]


def test_a_seed_makes_the_same_choices_again() -> None:
    assert planned("4/1", KINDS, 22) == planned("4/1", KINDS, 22)
    assert len({str(planned(f"4/{number}", KINDS, 22)) for number in range(50)}) == 50


def test_all_kinds_come_and_at_steps_of_the_run_in_their_order() -> None:
    plans = [planned(f"4/{number}", KINDS, 22) for number in range(200)]
    assert {strike.what for plan in plans for strike in plan} == set(KINDS)
    for plan in plans:
        steps = [strike.step for strike in plan]
        assert steps == sorted(steps)
        assert 1 <= len(plan) <= 4
        assert {*steps} <= set(range(1, 23))
        assert len({strike.seed for strike in plan}) == len(plan), "each chooses for itself"
