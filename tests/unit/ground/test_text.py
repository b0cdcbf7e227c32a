"""Numbers and what others print, as people read them."""

from __future__ import annotations

import pytest

from orchestrator.text import (
    bytes_in_words,
    clean,
    count,
    duration,
    exit_in_words,
    hours_name,
    number,
    percent,
    ranges,
    usd,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[1;31mb\x1b[0mc", "abc"),
        ("\x1b]0;title\x07x", "x"),
        (" 10%\r 50%\r100%\n", "100%"),
        ("bell\x07 and\ttab", "bell and\ttab"),
        ("two\r\nlines\r\n", "two\nlines"),
    ],
)
def test_output_is_cleaned(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_wording() -> None:
    assert [count(v) for v in (None, 0, 12, 999.9, 12_345, 4.56e6, 7.89e9, 1.2e12)] == [
        "–", "0", "12", "1k", "12.3k", "4.56M", "7.89B", "1.2T"
    ]  # fmt: skip
    assert [duration(v) for v in (None, 0, 133.9, 3600, 273_906)] == [
        "–", "0:00:00", "0:02:13", "1:00:00", "3d 04:05:06"
    ]  # fmt: skip
    assert [usd(v) for v in (None, 0.0, 0.0123, 0.5, 1234.5)] == [
        "–",
        "$0.00",
        "$0.0123",
        "$0.500",
        "$1,234.50",
    ]
    assert [number(v) for v in (float("nan"), 2.3, 0.00012345, 100.0)] == ["–", "2.300", "0.0001234", "100.0"]
    assert (number(100.0, 3), percent(0.4123), percent(None)) == ("100", "41.2%", "–")
    assert [hours_name(u) for u in ("GPU", "CPU core")] == ["GPU-hours", "core-hours"]
    assert [exit_in_words(s) for s in (1, -9, -15, -99)] == [
        "exited with status 1", "killed by SIGKILL", "killed by SIGTERM", "killed by signal 99"
    ]  # fmt: skip
    assert [bytes_in_words(b) for b in (0, 950, 12e6, 1.5e9, 2e12)] == [
        "0 B",
        "950 B",
        "12 MB",
        "1.5 GB",
        "2 TB",
    ]
    assert [ranges(n) for n in ([], [4], [7, 5, 6, 9, 5])] == ["", "4", "5–7, 9"]
