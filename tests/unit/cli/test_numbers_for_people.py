"""Numbers as people read them: no exponent, one day and two days, no word broken, wherever a figure is printed."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import orchestrator as orc
from orchestrator import text as said
from orchestrator.cli.show.budget import show_answer
from orchestrator.cli.show.layouts import show_choice, show_runners_up
from orchestrator.cli.show.predicted_actual import cost_in_parts
from orchestrator.cli.show.terminal import Terminal
from orchestrator.driver.planning import LayoutSearch, search_layout
from orchestrator.events import AttemptStarted, Event, Record, ResourcesGranted, RunStarted, StepDone
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.page import plain_text
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.planner.budget import BudgetResult
from tests.unit.config.test_conf import composed

EXPONENT = re.compile(r"\d[eE][+-]?\d")
# Of what there is one, there is none with an s.
ONE_OF_MANY = re.compile(r"(?<![\d.,/])1 (steps|ranks|sequences|days|nodes|GPUs|interruptions|epochs|NICs)\b")
DIVIDERS = "/,;_.=:-"
finite = st.floats(allow_nan=False, allow_infinity=False)


def readable(text: str) -> None:
    assert EXPONENT.findall(text) == []
    assert ONE_OF_MANY.findall(text) == []


FIGURES: tuple[Callable[[float], str], ...] = (
    said.number,
    said.figure,
    said.count,
    said.usd,
    said.hours,
    said.typed,
    said.bytes_in_words,
    said.bits_in_words,
    said.seconds_in_words,
    said.energy_in_words,
    said.power_in_words,
    said.with_prefix,
    said.hours_in_words,
    functools.partial(said.plural, noun="day"),
)


@given(finite | st.integers(-300, 300).map(lambda power: 10.0**power))
def test_no_figure_has_an_exponent(value: float) -> None:
    for figure in FIGURES:
        readable(figure(value))


@given(st.floats(1e-9, 1e15), st.integers(2, 6))
def test_a_figure_is_its_value_to_so_many_digits(value: float, digits: int) -> None:
    for shown in (said.figure(value, digits), said.number(value, digits)):
        assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (said.figure(2523.4), "2,523"), (said.figure(123.4, 2), "123"), (said.figure(0.00012345), "0.000123"),
        (said.figure(1e-15), "below 0.000000000001"), (said.figure(999.6), "1,000"), (said.figure(0.0), "0"),
        (said.number(1.5e9), "1,500,000,000"), (said.number(2.3), "2.300"), (said.number(99.999), "100.0"),
        (said.plural(1.0, "day"), "1 day"), (said.plural(2.5, "day"), "2.5 days"), (said.plural(1, "GPU"), "1 GPU"),
        (said.plural(250_000, "step"), "250,000 steps"), (said.typed(5e6), "5000000"), (said.typed(1e-7), "0.0000001"),
        (said.bits_in_words(400e9), "400 Gb/s"), (said.figure(math.inf), "infinite"),
    ],
)  # fmt: skip
def test_figures_are_plain(shown: str, expected: str) -> None:
    assert shown == expected


@functools.cache
def plan() -> Plan:
    words = ("job=llama3_70b", "cluster=aws_p5", "cluster.nodes=64")
    return make_plan(composed(*words), "/job.py", "/", {}, corpus_tokens=31_500_000)


def scaled(node: Any, by: float) -> Any:
    """The same with every figure so many times as large."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        values = {
            field.name: scaled(getattr(node, field.name), by)
            for field in dataclasses.fields(node)
            if field.name not in ("gpus", "mfu", "hfu", "step_time_error")
        }
        return dataclasses.replace(node, **values)
    if isinstance(node, tuple):
        return tuple(scaled(item, by) for item in node)
    if isinstance(node, bool) or not isinstance(node, int | float):
        return node
    return max(1, round(node * by)) if isinstance(node, int) else node * by


@settings(max_examples=40, deadline=None)
@given(st.floats(-14, 14).map(lambda power: 10.0**power), st.sampled_from([40, 80, 110]))
def test_a_plan_of_any_magnitude_reads_plainly(by: float, width: int) -> None:
    odd = dataclasses.replace(plan(), prediction=scaled(plan().prediction, by))
    text = plain_text(odd, width)
    readable(text.partition("  command ")[0])  # what the script is told is as it was typed
    assert width < 80 or max(map(said.cells, text.splitlines())) <= width


@pytest.mark.parametrize("cluster", ["dgx_h100", "gcp_a3_mega", "gcp_a3_high", "aws_p5", "azure_nd_a100_v4"])
def test_a_plan_in_80_columns_breaks_no_word(cluster: str) -> None:
    """What is longer than a line is broken after what divides it."""
    words = ("job=llama3_8b", f"cluster={cluster}", "job.micro_batch=1", "job.global_batch=4096")
    made = make_plan(composed(*words, "cluster.nodes=8"), "/job.py", "/", {})
    wide, narrow = plain_text(made, 1000).split(), plain_text(made, 80)
    whole = set(wide)
    for word in set(narrow.split()) - whole:
        of = [one for one in whole if word in one]
        assert of, word
        ends = word[-1] in DIVIDERS or any(one.endswith(word) for one in of)
        begins = any(one.startswith(word) or one[one.index(word) - 1] in DIVIDERS for one in of)
        assert ends, word
        assert begins, word


@functools.cache
def found(usd: float | None, days: float | None) -> BudgetResult:
    return orc.plan_budget(orc.compose("cluster=dgx_h100"), usd=usd, days=days)


@pytest.mark.parametrize(("usd", "days"), [(200.0, None), (2e9, 300.0), (50_000.0, 1.0)])
def test_the_answer_to_a_budget_reads_plainly(usd: float, days: float | None) -> None:
    stream = io.StringIO()
    show_answer(found(usd, days), Console(width=110, file=stream))
    readable(stream.getvalue())
    if days == 1.0:
        assert "within 1 day;" in stream.getvalue()


@functools.cache
def searched() -> LayoutSearch:
    return search_layout(orc.compose("job=llama3_8b", "cluster=dgx_h100", "layout=auto"), observed=False)


@settings(max_examples=10, deadline=None)
@given(st.floats(-12, 12).map(lambda power: 10.0**power))
def test_a_search_reads_plainly(by: float) -> None:
    found, slow = searched().search, dataclasses.replace(searched().search.best)
    vars(slow)["step"] = scaled(found.best.step, by)  # which is computed when it is asked for
    odd = dataclasses.replace(found, best=slow)
    stream = io.StringIO()
    console = Console(width=110, file=stream)
    show_choice(odd, searched().overrides, searched().kept, console)
    show_runners_up(odd, console)
    readable(stream.getvalue())


def ended(price: float, step_s: float, steps: int) -> tuple[str, Ledger]:
    """The summary of a run whose fourth step and those after it are as long, its others twice that."""
    run = RunStarted(
        *("night", "gpt", "lab", "H100", 4, price, "GPU", steps, 1000, 1e9, 1e12),
        predicted_step_time_s=step_s,
        predicted_memory_bytes=60_000_000_000,
        predicted_cost_usd_per_step=4 * step_s * price / 3600,
    )
    times = [2 * step_s] * min(3, steps) + [step_s] * max(0, steps - 3)
    events: list[Event] = [run, ResourcesGranted(["n"], 4), AttemptStarted(1, "h", 1, 4)]
    events += [StepDone(1, step, seconds) for step, seconds in enumerate(times, 1)]
    stream = io.StringIO()
    terminal, ledger, now = Terminal(Console(width=100, file=stream), steps), Ledger(), 0.0
    for seq, event in enumerate(events):
        now += event.step_time_s * 1.5 if isinstance(event, StepDone) else step_s
        record = Record(seq, now, 1e9 + now, event)
        ledger.fold(record)
        terminal.observe(record, ledger.bill())
    terminal.summary(None, ledger, {})
    return stream.getvalue(), ledger


@settings(max_examples=25, deadline=None)
@given(st.floats(-9, 2).map(lambda p: 10.0**p), st.floats(-3, 6).map(lambda p: 10.0**p), st.integers(1, 12))
def test_a_summary_reads_plainly_and_its_cost_adds_up(price: float, step_s: float, steps: int) -> None:
    text, ledger = ended(price, step_s, steps)
    readable(text)
    bill = ledger.bill()
    parts = cost_in_parts(bill, ledger.predicted_actual())
    assert sum(parts.values()) == pytest.approx(bill.cost_usd)
    assert all(part >= 0 for part in parts.values())


def test_a_cost_beyond_its_steps_says_what_it_went_to() -> None:
    """Steps take what was predicted, and half as much again lies between them."""
    text, ledger = ended(price=2.5, step_s=10.0, steps=12)
    shown = " ".join(text.split())
    assert "step time 10.0 s 10.0 s 1.00" in shown
    assert re.search(
        r"where it went of \$\S+: \$\S+ steps at their usual time, \$\S+ validation, logging", shown
    )
    parts = cost_in_parts(ledger.bill(), ledger.predicted_actual())
    assert parts["steps at their usual time"] == pytest.approx(12 * 10 * 4 / 3600 * 2.5, rel=0.01)


@pytest.mark.parametrize("width", [40, 80])
def test_a_line_on_a_terminal_is_broken_between_words_below_its_own_beginning(width: int) -> None:
    stream = io.StringIO()
    console = Console(width=width, file=stream, force_terminal=True, color_system=None)
    sentence = "what is waited for is said in so many words that no terminal of this width takes all of them"
    Terminal(console, 1).notice(sentence)
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert len(lines) > 1
    assert all(line.startswith(" " * 10) and len(line) <= width for line in lines)
    assert " ".join(" ".join(lines).split()) == sentence


def test_a_line_in_a_file_stays_one_line() -> None:
    stream = io.StringIO()
    Terminal(Console(width=40, file=stream), 1).notice("a line for whoever searches " * 4)
    assert len(stream.getvalue().rstrip("\n").split("\n")) == 1
