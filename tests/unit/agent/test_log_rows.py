"""Progress bars among lines: only the newest state of what is written again and again, and nothing lost."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from orchestrator.agent.log_rows import LogRows

UP = "\x1b[A"


def fed(text: str, piece: int = 10**6) -> tuple[list[str], LogRows]:
    rows, data = LogRows(), text.encode()
    lines = [line for at in range(0, len(data), piece) for line in rows.feed(data[at : at + piece])]
    return lines, rows


@given(st.text("ab\n\x1b[0m \t", max_size=60), st.integers(1, 60))
def test_lines_are_lines_in_whatever_pieces_they_come(text: str, piece: int) -> None:
    lines, rows = fed(text, piece)
    assert rows.bars() == ""
    expected = text.removesuffix("\n").split("\n") if text else []
    assert [*lines, *rows.rest()] == expected


@given(st.text("ab\n\r\x1b[A0;é", max_size=60), st.integers(1, 60))
def test_no_order_of_controls_is_too_much(text: str, piece: int) -> None:
    lines, rows = fed(text, piece)
    for line in [*lines, *rows.rest()]:
        assert "\n" not in line
        assert "\r" not in line
    assert rows.bars() == ""


@given(st.lists(st.text("ab", min_size=1, max_size=5), max_size=5), st.integers(1, 9))
def test_lines_that_end_as_on_windows_are_the_same(lines: list[str], piece: int) -> None:
    whole, rows = fed("".join(f"{line}\r\n" for line in lines), piece)
    assert whole + rows.rest() == lines


def test_of_a_bar_the_newest_state_stands_until_its_line_is_complete() -> None:
    lines, rows = fed("begin\n\r  0%|   |\r 50%|#  |")
    assert (lines, rows.bars()) == (["begin"], " 50%|#  |")
    assert rows.feed(b"\r100%|###|") == []
    assert rows.bars() == "100%|###|"
    assert rows.feed(b"\nafter\n") == ["100%|###|", "after"]
    assert rows.bars() == ""


def test_figures_that_are_printed_behind_a_bar_are_a_line_of_their_own() -> None:
    lines, rows = fed('\r 50%|#  | {postfix}{"step": 6, "of": {"a": 1}}\n\r 60%|#  |')
    assert (lines, rows.bars()) == (['{"step": 6, "of": {"a": 1}}'], " 60%|#  |")
    assert fed('{"step": 6}\r\n')[0] == ['{"step": 6}']


def test_what_is_printed_between_the_states_of_a_bar_is_a_line_soon() -> None:
    text = "".join(f"\r{at}%|#  |epoch {at}\n\r{at}%|#  |" for at in range(3)) + "\r4%|#  |"
    lines, rows = fed(text)
    assert lines == [f"{at}%|#  |epoch {at}" for at in range(3)]
    assert rows.bars() == "4%|#  |"


def test_a_bar_that_wipes_itself_out_leaves_nothing() -> None:
    lines, rows = fed("\r 50%|#  |\r          \rafter\n")
    assert (lines, rows.bars(), rows.rest()) == (["after"], "", [])


@pytest.mark.parametrize("piece", [1, 3, 10**6])
@pytest.mark.parametrize("leave", [True, False])
def test_bars_of_tqdm_inside_each_other_are_two_rows_and_end_as_one_line_each(
    piece: int, leave: bool
) -> None:
    output = io.StringIO()
    for _ in tqdm(range(3), file=output, mininterval=0, desc="epochs", ncols=60):
        for _ in tqdm(range(50), file=output, mininterval=0, desc="steps", ncols=60, leave=leave):
            pass
    output.write("done\n")
    lines, rows = fed(output.getvalue(), piece)
    kept = [line for line in [*lines, *rows.rest()] if "100%" in line and line.startswith("epochs")]
    assert len(kept) == 1, "the last state, once"
    if piece > 100:
        assert len(lines) <= 5
    assert lines[-1] == "done"


def test_two_bars_are_shown_below_each_other() -> None:
    _, rows = fed(f"\repochs 1\n\rsteps 10{UP}\repochs 2\n\rsteps 20{UP}")
    assert rows.bars() == "epochs 2\nsteps 20"


def test_bytes_that_are_no_text_stay_one_line() -> None:
    rows = LogRows()
    assert rows.feed(b"\xff\x00\x1b[2Jraw\n" + b"x" * 10_000 + b"\nlast\n")[0].endswith("raw")
