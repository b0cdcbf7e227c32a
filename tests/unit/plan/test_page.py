"""A plan as plain text, as a terminal shows it and as a notebook does: one text, laid out three times."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape

import pytest
from rich.console import Console

from orchestrator.cli.show.plan import show_plan
from orchestrator.plan.environment import Setting
from orchestrator.plan.page import WIDTH, plain_text
from orchestrator.plan.plan import Plan
from orchestrator.redact import HIDDEN
from orchestrator.text import cells, wrapped
from tests.unit.plan.test_prediction import GPUS, config, plan_of


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(config(*GPUS))


def shown(plan: Plan, width: int, **settings: object) -> str:
    stream = io.StringIO()
    show_plan(plan, Console(width=width, file=stream, **settings))  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, WIDTH, 200])
def test_the_verb_prints_the_plain_text_and_adds_colours_only(plan: Plan, width: int) -> None:
    text = shown(plan, width)
    assert [line.rstrip() for line in text.splitlines()] == f"{plain_text(plan, width)}\n".splitlines()
    coloured = shown(plan, width, force_terminal=True, color_system="standard")
    assert coloured != text
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text


def test_text_of_a_plan_is_made_without_rich() -> None:
    code = "import sys, orchestrator as orc; str(orc.make_plan(orc.compose())); print('rich' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("width", [40, 60, 80, 110])
def test_on_a_narrow_page_tables_stand_below_each_other_and_no_line_is_wider(plan: Plan, width: int) -> None:
    text = plain_text(plan, width)
    environment = text.index("Environment of every rank")  # names of variables are never broken
    assert max(map(cells, text[:environment].splitlines())) <= max(width, 47)
    beside = [line for line in text.splitlines() if "Memory per GPU" in line and "Time of a step" in line]
    assert bool(beside) == (width >= 80)


def test_what_was_written_by_others_gives_no_orders_and_tells_no_secret(plan: Plan) -> None:
    told = {"NOTE": Setting("a\x1b[2Jb", "env"), "MY_TOKEN": Setting("hunter2hunter2", "<b>env</b>")}
    text = str(replace(plan, job="x\x1b]0;y\x07<script>", environment=told))
    page = replace(plan, job="<script>", environment=told)._repr_html_()
    assert "\x1b" not in text
    assert "hunter2" not in text + page
    assert HIDDEN in text
    assert "<script" not in page
    assert "<b>env" not in page
    assert "&lt;script&gt;" in page


def test_a_notebook_is_shown_every_figure_of_the_text_and_fetches_nothing(plan: Plan) -> None:
    page = plan._repr_html_()
    words = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    for word in re.findall(r"[\w.,$%]*\d[\w.,$%]*", str(plan)):
        assert word in words or word == "<1%", word
    assert not re.search(r"https?:|<script|<link|<img|color", page)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("a bbbbbbbbbbbb c", 5, ["a", "bbbbb", "bbbbb", "bb c"]),
        ("first\nsecond", 20, ["first", "second"]),
        ("", 5, [""]),
        ("東京 大阪", 4, ["東京", "大阪"]),
        ("東京大阪", 5, ["東京", "大阪"]),
        ("東", 1, ["東"]),
        ("ne\u0301e", 3, ["ne\u0301e"]),
        ("  set in", 8, ["  set in"]),
    ],
)
def test_lines_are_broken_between_words_by_the_columns_they_take(
    text: str, width: int, lines: list[str]
) -> None:
    assert wrapped(text, width) == lines
