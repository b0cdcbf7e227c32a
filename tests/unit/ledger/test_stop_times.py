"""What a stop and the start after it have taken, from a run's journal."""

from __future__ import annotations

from orchestrator.events import (
    CheckpointLoaded,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    SnapshotCommitted,
    Status,
    StopRequested,
)
from orchestrator.ledger.stop_times import StopTimes
from tests.support.played_runs import BEGIN, GRANTED, Timeline, records, started, steps


def folded(timeline: Timeline) -> tuple[float | None, ...]:
    times = StopTimes()
    for record in records(timeline):
        times.fold(record)
    return times.stop_s, times.write_s, times.start_s, times.load_s


def committed(step: int, write_s: float) -> SnapshotCommitted:
    return SnapshotCommitted(1, step, f"step-{step}", "/c", 1000, write_s)


FIRST: Timeline = [*BEGIN, *steps(1, 1, 5, at=9.0)]
SAVED: Timeline = [*FIRST, (13.5, committed(4, 2.5))]
STOPPED: Timeline = [
    *SAVED,
    (20.0, StopRequested("SIGTERM", 60.0)),
    (24.0, committed(6, 3.0)),
    (25.0, ResourcesReleased()),
    (25.0, RunEnded(Status.INTERRUPTED, "stopped by SIGTERM")),
]


def test_what_has_not_happened_is_not_known() -> None:
    assert folded(BEGIN) == (None, None, None, None)


def test_a_start_lasts_until_a_step_has_begun_and_the_newest_write_is_what_a_stop_would_wait_for() -> None:
    assert folded(FIRST) == (None, None, 8.0, None), "nothing was loaded, which says nothing of a load"
    assert folded(SAVED) == (None, 2.5, 8.0, None)


def test_the_write_within_a_stop_is_counted_once_as_is_the_load_within_a_start() -> None:
    assert folded(STOPPED) == (2.0, 3.0, 8.0, None)
    again: Timeline = [
        *STOPPED,
        (100.0, RunResumed("night-1", "it had been stopped")),
        (130.0, GRANTED),  # the time in which it waited for nodes costs nobody a GPU
        (131.0, started(2, 6, "disk")),
        (133.5, CheckpointLoaded(2, 6, "step-6", "/c", 1.5)),
        *steps(2, 7, 8, at=135.0),
    ]
    assert folded(again) == (2.0, 3.0, 2.5, 1.5)


def test_a_driver_that_was_lost_while_it_stopped_says_nothing_of_the_next() -> None:
    lost = STOPPED[:-2]
    resumed: Timeline = [
        *lost,
        (500.0, RunResumed("night-1", "its driver was gone")),
        (900.0, ResourcesReleased()),
    ]
    assert folded(resumed) == (None, 3.0, 8.0, None)


def test_a_load_from_memory_says_nothing_of_one_from_the_disk() -> None:
    def again(source: str, at: float, seconds: float) -> Timeline:
        attempt = 2 if source == "disk" else 3
        return [
            (at, RunResumed("night-1", "it had been stopped")),
            (at + 30, GRANTED),
            (at + 31, started(attempt, 6, source)),
            (at + 32, CheckpointLoaded(attempt, 6, "step-6", "/c", seconds)),
            *steps(attempt, 7, 8, at=at + 50),
        ]

    times = StopTimes()
    for record in records([*STOPPED, *again("disk", 100.0, 9.0), *again("parked", 300.0, 0.5)]):
        times.fold(record)
    assert (times.load_s, times.memory_load_s) == (9.0, 0.5)
