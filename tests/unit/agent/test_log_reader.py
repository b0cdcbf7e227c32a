"""What is read of a rank's log: its lines as they grow, its end, and the figures in it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.log_reader import READ_BYTES, LogReader, metrics_of, tail
from orchestrator.agent.log_rows import LINE_BYTES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"step": 5, "val_loss": 2.5}', (5, {"val_loss": 2.5})),
        ('{"accuracy": 1}', (None, {"accuracy": 1.0})),
        ('{"step": 5}', None),
        ('{"text": "no number", "flag": true}', None),
        ("{not json", None),
        ("[1, 2]", None),
        ("step 5 loss 2.5", None),
        ('{"step": NaN, "acc": 1.0}', (None, {"acc": 1.0})),
        ('{"step": 3, "acc": Infinity}', (3, {"acc": math.inf})),
        ('{"step": 1e999, "acc": 1.0}', (None, {"acc": 1.0})),
        (f'{{"acc": 1{"0" * 400}, "x": 1}}', (None, {"x": 1.0})),
        ('{"a": ' + "[" * 100_000, None),
    ],
)
def test_a_line_of_json_is_a_metric(line: str, expected: object) -> None:
    assert metrics_of(line) == expected


def test_a_figure_that_is_no_number_is_one_all_the_same() -> None:
    step, metrics = metrics_of('{"step": 3, "mine": NaN}') or (None, {})
    assert step == 3
    assert math.isnan(metrics["mine"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)), st.integers(1, 7))
def test_lines_come_whole_however_the_file_grows(tmp_path_factory, lines: list[str], chunk: int) -> None:
    path = tmp_path_factory.mktemp("log") / "rank.log"
    reader, seen = LogReader(path), []
    assert reader.lines() == []
    data = "".join(f"{line}\n" for line in lines).encode()
    with path.open("ab", buffering=0) as stream:
        for at in range(0, len(data), chunk):
            stream.write(data[at : at + chunk])
            seen += reader.lines()
    assert seen + reader.rest() == lines


def test_a_tail_reads_the_end_only(tmp_path) -> None:
    path = tmp_path / "rank.log"
    path.write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert tail(path, 2) == ["line 99998", "line 99999"]
    assert tail(tmp_path / "absent.log", 2) == []


def test_a_tail_has_of_a_progress_bar_its_last_state(tmp_path) -> None:
    path = tmp_path / "rank.log"
    path.write_bytes(b"begin\n" + b"".join(b"\r%d%%" % done for done in range(101)) + b"\nTraceback\n")
    assert tail(path, 20) == ["begin", "100%", "Traceback"]


def test_a_line_without_end_is_cut_and_the_next_one_whole(tmp_path) -> None:
    path = tmp_path / "rank.log"
    path.write_bytes(b"x" * (3 * READ_BYTES) + b"\nnext\n")
    reader, seen = LogReader(path), []
    for _ in range(5):
        seen += reader.lines()
    assert [len(line) for line in seen] == [LINE_BYTES + 1, 4]
    assert seen[0].endswith("x…")
    assert seen[1] == "next"


def test_the_rest_of_a_log_is_read_to_its_end(tmp_path) -> None:
    path = tmp_path / "rank.log"
    line = "a" * 63
    path.write_text(f"{line}\n" * (3 * READ_BYTES // 64 + 1) + "the end")
    assert LogReader(path).rest()[-2:] == [line, "the end"]
    assert LogReader(tmp_path / "absent.log").rest() == []
