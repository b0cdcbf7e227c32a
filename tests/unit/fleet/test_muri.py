"""The quirks of Muri's simulator, each in a trace of a few jobs that can be worked out by hand."""

from __future__ import annotations

import pytest

from orchestrator.fleet.muri import shortest_first, tiresias_l
from orchestrator.fleet.trace import TraceJob


def test_a_job_alone_does_its_whole_iterations_a_little_slower():
    """vgg16 on one GPU takes 107 ms: 934 of them fit into 100 s."""
    outcome = shortest_first([TraceJob("a", 0, 100.0, 1, model="vgg16")], by_service=False)
    assert outcome.jct_s[0] == pytest.approx(934 * 0.107 * 1.015)
    assert shortest_first([TraceJob("a", 0, 100.0, 3, model="x")], by_service=False).jct_s[0] == (
        pytest.approx(101.5)
    )


def test_each_event_costs_every_running_job_its_start():
    """The second job's submission, at 50 s, and its end take 4 s each from the first, resnet18."""
    jobs = [TraceJob("a", 0, 77.9, 1, model="resnet18"), TraceJob("b", 50, 10.0, 1)]
    outcome = shortest_first(jobs, by_service=True)
    assert outcome.jct_s[1] == pytest.approx(10.15)
    assert outcome.jct_s[0] == pytest.approx(100 * 0.779 * 1.015 + 4 + 4)


def test_by_service_a_narrow_job_goes_before_a_wide_one_that_is_shorter():
    jobs = [TraceJob("wide", 0, 100.0, 64), TraceJob("narrow", 0, 150.0, 8)]
    by_time, by_service = (shortest_first(jobs, by_service=each) for each in (False, True))
    assert by_time.jct_s == pytest.approx([101.5, 101.5 + 152.25])
    assert by_service.jct_s == pytest.approx([152.25 + 101.5, 152.25])


def test_a_gang_wider_than_a_node_takes_whole_nodes_only():
    """Eight jobs of 1 GPU leave 56 GPUs on seven whole nodes; with nine there are six, too few for 56. Their
    end takes the 10 s of a start from the wide one that runs beside them."""
    for narrow, wide_waits in ((8, False), (9, True)):
        jobs = [TraceJob(f"n{each}", 0, 10.0, 1) for each in range(narrow)] + [TraceJob("wide", 0, 20.0, 56)]
        assert shortest_first(jobs, by_service=False).jct_s[-1] == pytest.approx(
            10.15 + 20.3 if wide_waits else 20.3 + 10
        )


def test_who_has_been_served_more_than_a_queue_s_limit_yields_to_who_has_not():
    """64 GPUs reach 3250 GPU-seconds in 51 s; the jump costs nothing of a job that loses its place by it."""
    jobs = [TraceJob("a", 0, 1000.0, 64), TraceJob("b", 1, 20.0, 64)]
    outcome = tiresias_l(jobs)
    assert outcome.jct_s[1] == pytest.approx(51 + 20.3 - 1)
    assert outcome.preemptions == 1
    # Lost: 1 s at the submission of b, which is less than a start, and 10 s at each of the two jumps.
    assert outcome.jct_s[0] == pytest.approx(1015 + 20.3 + 1 + 10 + 10)


def test_who_waits_in_a_queue_stands_behind_who_runs():
    """Both are in the last queue at the end; whoever runs there keeps running."""
    jobs = [TraceJob("a", 0, 300.0, 64), TraceJob("b", 0, 300.0, 64)]
    outcome = tiresias_l(jobs)
    assert min(outcome.jct_s) < 500
    assert outcome.preemptions <= 4


def test_a_limit_is_reached_though_the_time_served_is_a_sum_that_was_rounded():
    """Whoever is short of it by less than the clock can tell would else be looked at again for ever."""
    jobs = [
        TraceJob(str(place), 0, duration_s, gpus)
        for place, (duration_s, gpus) in enumerate([(64.8, 16), (462.1, 32), (1143.5, 8), (452.9, 16)])
    ]
    assert max(tiresias_l(jobs).jct_s) < 1300


def test_events_a_billionth_apart_are_one():
    """Two that end together end at one event, which costs a third no more than one start."""
    jobs = [
        TraceJob("a", 0, 100.0, 1),
        TraceJob("b", 0, 100.0 + 1e-9, 1),
        TraceJob("c", 0, 200.0, 1),
    ]
    assert shortest_first(jobs, by_service=False).jct_s[2] == pytest.approx(203.0 + 10.0)
