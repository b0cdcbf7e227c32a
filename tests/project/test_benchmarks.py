"""The arithmetic of the benchmarks: phases from moments, medians and how sure they are, what is reported."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import ledger_cost, side_by_side, steady, tick, trail
from benchmarks.figures import median_interval, percentile, spread, table
from benchmarks.goodput import Outcome
from benchmarks.ground import Ground
from benchmarks.phases import PHASES, RANK_PHASES, Launch, phase_rows, slowest, total_s, typical
from benchmarks.picture import GROUPS, grouped
from benchmarks.report import REPORT, SECTIONS, write_section
from benchmarks.restart import Restart
from benchmarks.scaling import growth, sizes
from benchmarks.snapshot_stall import SAVES, Saves

RANK = {"process": 11.0, "script": 11.1, "imported": 14.0, "process_group": 14.2, "first_step": 18.0}
seconds = st.floats(min_value=0, max_value=100)


def test_phases_are_cut_at_the_moments_that_are_known():
    launch = Launch.between(10.0, {"tool": 11.0}, RANK)
    assert launch.phases == pytest.approx(
        {"tool": 1.0, "start": 0.1, "import": 2.9, "process group": 0.2, "first step": 3.8}
    )
    assert launch.total_s == pytest.approx(8.0)


def test_a_phase_without_an_end_counts_with_the_next():
    attached = Launch.between(10.0, {"tool": 10.2, "attach": 10.7, "spawn": 11.0}, RANK)
    unseen = Launch.between(10.0, {"tool": 10.2, "spawn": 11.0}, RANK)
    assert unseen.phases["spawn"] == pytest.approx(attached.phases["attach"] + attached.phases["spawn"])
    assert unseen.total_s == pytest.approx(attached.total_s)


@given(st.floats(min_value=0, max_value=2e9), st.lists(seconds, min_size=11, max_size=11))
def test_phases_add_up_to_the_time_that_passed(begin, durations):
    ends, moment = [], begin
    for duration in durations:
        moment += duration
        ends.append(moment)
    launch = Launch.between(
        begin,
        dict(zip(("tool", "attach", "place", "spawn"), ends[:4], strict=True)),
        dict(zip(RANK_PHASES, ends[4:], strict=True)),
    )
    assert list(launch.phases) == list(PHASES)
    assert launch.total_s == pytest.approx(moment - begin, abs=1e-5)


def test_moments_out_of_order_are_refused_but_for_a_tick_of_the_kernel():
    ticked = Launch.between(10.0, {"tool": 11.005, "spawn": 11.0}, RANK)
    assert ticked.phases["spawn"] == 0
    assert ticked.total_s == pytest.approx(8.0)
    with pytest.raises(ValueError, match=r"import ended 2\.900 s before"):
        Launch.between(10.0, {"tool": 11.0}, {**RANK, "script": 14.0, "imported": 11.1})


def test_the_last_rank_counts_at_every_point():
    assert slowest([{"script": 1.0, "imported": 5.0}, {"script": 2.0, "imported": 4.0}]) == {
        "script": 2.0,
        "imported": 5.0,
    }


def test_the_typical_launch_is_the_one_with_the_median_total():
    launches = [Launch({"tool": value}) for value in (3.0, 1.0, 2.0)]
    assert typical(launches) == Launch({"tool": 2.0})
    assert total_s(launches) == 2.0
    assert typical(launches[:2]) == Launch({"tool": 1.0})
    assert total_s(launches[:2]) == 2.0


def test_a_phase_that_nobody_shows_has_no_row():
    rows = phase_rows(
        {"one": [Launch({"tool": 1.0, "import": 0.5})], "two": [Launch({"attach": 2.0, "import": 0.0})]}
    )
    assert rows == [["tool", "1.00", "–"], ["attach", "–", "2.00"], ["import", "0.50", "0.00"]]


def test_every_phase_has_a_place_in_the_picture():
    launch = Launch(dict.fromkeys(PHASES, 1.0))
    assert sum(grouped(launch).values()) == len(PHASES)
    assert list(grouped(launch)) == list(GROUPS)


def test_percentiles_are_values_that_were_measured():
    values = [float(value) for value in range(1, 101)]
    random.Random(0).shuffle(values)
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]


def test_the_interval_of_the_median_is_that_of_the_sign_test():
    # 8 rounds: all on one side of the median with 2/256, seven of them with 16/256 more
    assert median_interval([8, 1, 7, 2, 6, 3, 5, 4]) == (2, 7, pytest.approx(1 - 18 / 256))
    assert median_interval([8, 1, 7, 2, 6, 3, 5, 4], wanted=0.99) == (1, 8, pytest.approx(1 - 2 / 256))
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0, 0.75)
    assert median_interval([2.0]) == (2.0, 2.0, 0.0)


@pytest.mark.parametrize("rounds", [5, 8, 12])
def test_the_interval_holds_the_median_as_often_as_it_says(rounds):
    draw = random.Random(rounds)
    hits, tries = 0, 4000
    for _ in range(tries):
        low, high, sure = median_interval([draw.lognormvariate(0.0, 1.0) for _ in range(rounds)])
        hits += low <= 1.0 <= high
    assert hits / tries == pytest.approx(sure, abs=0.02)


@given(st.lists(seconds, min_size=1, max_size=20))
def test_the_interval_holds_the_median_of_the_rounds(values):
    low, high, sure = median_interval(values)
    assert low <= median(values) <= high
    assert 0 <= sure < 1


def test_tables():
    assert spread([2.0, 1.0, 3.0], 1) == "1.0–3.0"
    assert table(["a", "b"], [["x", "1"]]) == ["| a | b |", "|---|---:|", "| x | 1 |"]


def test_speed_is_that_of_all_steps_after_the_warm_up():
    lines = [{"step": step, "tokens_per_s": rate} for step, rate in ((20, 1.0), (25, 100.0), (30, 300.0))]
    printed = "\n".join(["a line of text", '{"val_loss": 2.0}', *map(json.dumps, lines)])
    assert steady.tokens_per_s(printed, steps=10) == pytest.approx(2 / (1 / 100 + 1 / 300))
    with pytest.raises(RuntimeError, match="3 rates were to be printed, 2 were"):
        steady.tokens_per_s(printed, steps=15)


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((0.995, 1.01, 0.93), "met: all"),
        ((0.97, 0.985, 0.93), "MISSED"),
        ((0.97, 1.01, 0.93), "not decided at 93%"),
        ((0.5, 0.5, 0.0), "not decided: too few"),
    ],
)
def test_a_goal_is_met_or_missed_only_when_the_rounds_say_so(interval, word):
    assert steady.verdict(*interval).startswith(word)


def test_growth_is_told_for_each_further_rank():
    assert sizes(16) == [1, 2, 4, 8, 16]
    assert sizes(6) == [1, 2, 4]
    launches = {"one": {1: [Launch({"tool": 1.0})], 5: [Launch({"tool": 3.0})]}}
    assert growth(launches) == "one +0.50 s"


def noted(rank: int, pid: int, begin_s: float, loaded: int, steps: list[int]) -> list[trail.Note]:
    """A process of job/trains_on.py: a second for its start, the load and each step."""
    notes = [trail.Note(rank, pid, what, begin_s) for what in ("script", "imported", "process_group")]
    notes.append(trail.Note(rank, pid, "initialized", begin_s + 1))
    if loaded:
        notes.append(trail.Note(rank, pid, "loaded", begin_s + 2, loaded, 1.0))
    return notes + [
        trail.Note(rank, pid, "step", begin_s + 3 + place, step, 0.5) for place, step in enumerate(steps)
    ]


def test_a_restart_ends_with_a_step_that_none_had_done():
    first = [*noted(0, 1, 0.0, 0, [1, 2, 3, 4]), *noted(1, 2, 0.0, 0, [1, 2, 3, 4, 5])]
    again = [*noted(0, 3, 20.0, 2, [3, 4, 5, 6]), *noted(1, 4, 21.0, 2, [3, 4, 5])]
    notes = first + again
    assert trail.reached(trail.before(notes, 10.0)) == 5
    assert trail.after(notes, 10.0) == again
    assert Restart.between(10.0, again, 2, reached=5) is None
    again.append(trail.Note(1, 4, "step", 30.0, 6, 0.5))
    one = Restart.between(10.0, again, 2, reached=5)
    assert one is not None
    assert one.phases == {"script": 11.0, "initialized": 1.0, "loaded": 1.0, "first": 1.0, "new": 6.0}
    assert one.total_s == 20.0


def test_goodput_counts_a_step_once():
    notes = [*noted(0, 1, 0.0, 0, [1, 2, 3]), *noted(0, 2, 20.0, 1, [2, 3, 4])]
    one = Outcome.of(notes, ranks=1, steps=4, early=0)
    assert (one.wall_s, one.new_s, one.redone) == (pytest.approx(25.0 - 2.5), 2.0, 2)
    with pytest.raises(RuntimeError, match="of 5 steps 4 are new"):
        Outcome.of(notes, ranks=1, steps=5, early=0)


def test_notes_of_a_killed_rank_are_read_without_its_torn_last_line(tmp_path: Path):
    line = json.dumps({"what": "step", "at": 5.0, "step": 7, "seconds": 0.5})
    (tmp_path / "rank-1.42.jsonl").write_text(f'{line}\n{{"what": "st')
    assert trail.read(tmp_path) == [trail.Note(1, 42, "step", 5.0, 7, 0.5)]


def test_a_save_counts_by_its_slowest_rank_and_the_way_it_went():
    saved = [
        trail.Note(rank, rank, "saved", 0.0, step, step + rank / 10, wrote=10)
        for step in range(1, SAVES + 1)
        for rank in (0, 1)
    ]
    committed = [
        trail.Note(0, 0, "committed", 0.0, step, 10.0 + step, wrote=10_000) for step in range(1, SAVES + 1)
    ]
    one = Saves.of([*saved, *committed], staged=True)
    assert one == Saves(first_s=1.1, warm_s=4.1, durable_s=14.0, size=10_000)
    with pytest.raises(RuntimeError, match="ranks wrote 20 by themselves"):
        Saves.of(
            [*saved, *(trail.Note(0, 0, "synced", 0.0, n.step, n.seconds, n.wrote) for n in committed)], False
        )


def test_a_tick_is_measured_for_steps_samples_and_the_end(tmp_path: Path):
    ticks = tick.measured(3, 4, tmp_path)
    assert len(ticks.usual_s) == 3
    assert min(*ticks.usual_s, ticks.samples_s, ticks.ends_s) > 0
    text = (tmp_path / "journal.jsonl").read_text()
    assert text.count('"s":') == 5
    assert text.count("NodeSampled") == 3 + 1  # all nodes once, and node 0 at its usual turn
    assert '"finished"' in text


def test_a_section_is_replaced_in_its_place(tmp_path: Path):
    report = tmp_path / "benchmarks.md"
    for name, text in (
        ("journal", "first"),
        ("plan_time", "second"),
        ("launch", "third"),
        ("journal", "fourth"),
    ):
        write_section(name, text, report)
    text = report.read_text()
    assert "first" not in text
    assert text.index("third") < text.index("fourth") < text.index("second")
    before = text
    write_section("journal", "fourth", report)
    assert report.read_text() == before
    report.write_text(text.replace("<!-- journal: end -->", ""))
    with pytest.raises(RuntimeError, match="only one of"):
        write_section("journal", "fifth", report)


def test_prose_entries_of_lists_and_captions_are_wrapped_but_neither_tables_nor_code(tmp_path: Path):
    report, words = tmp_path / "benchmarks.md", "so many words " * 12
    kept = [f"| {words}|", f"```\n{words}\n```", "- first\n- second"]
    write_section(
        "journal", "\n\n".join([*kept, words, f"- {words}\n- {words}", f"![{words}](a.svg)"]), report
    )
    text = report.read_text()
    assert all(one in text for one in kept)
    lines = [line for line in text.splitlines() if len(line) > 110]
    assert lines == [f"| {words}|", words]
    assert [text.count(f"\n{start}") for start in ("- so many words", "  ", "![so many words")] == [2, 2, 1]


def test_versions_are_measured_in_turns_and_compared_round_by_round(tmp_path: Path):
    asked: list[str] = []

    def measure(here: Ground) -> float:
        place = here.env["PYTHONPATH"]
        asked.append(place)
        return len(asked) * (2.0 if place == str(tmp_path) else 1.0)

    question = side_by_side.Question("what", 1e3, measure)
    found = side_by_side.in_turns(Ground(tmp_path, {}), question, tmp_path, 3)
    ours = str(side_by_side.HERE)
    assert asked == [str(tmp_path), ours, ours, str(tmp_path), str(tmp_path), ours]
    assert found == [(2.0, 2.0), (8.0, 3.0), (10.0, 6.0)]
    name, before, after, ratio = side_by_side.row(question, found)
    assert (name, before.split()[0], after.split()[0], ratio) == ("what", "8e+03", "3e+03", "0.60")


def test_every_section_has_a_benchmark():
    assert all((Path(steady.__file__).parent / f"{name}.py").exists() for name in SECTIONS)
    assert f"BENCHMARKS := {' '.join(SECTIONS)}\n" in (REPORT.parents[1] / "Makefile").read_text()


def test_the_cost_of_the_ledger_is_held_against_what_all_cores_have_in_a_step():
    def section(thread_s):
        parts = {"thread": thread_s, "others": 20e-6, "driver": 150e-6, "MLflow": 50e-6}
        told = {ledger_cost.SINK: 5e-5, ledger_cost.ONE_BY_ONE: 5e-3, ledger_cost.TOGETHER: 2e-3}
        one = ledger_cost.Round(dict.fromkeys(ledger_cost.STEPS, 2e-5), told, parts)
        return ledger_cost.section([one, one, one], 0.0)

    assert "**0.170%** of their cores' time, and the step waits for 0.050%" in section(50e-6)
    assert "(goal: under 0.5%; met)" in section(50e-6)
    assert "(goal: under 0.5%; missed)" in section(501e-6)
    assert "**0.010** of what `mlflow.log_metric` takes" in section(50e-6)
    assert "medians of 3 rounds" in section(50e-6)
