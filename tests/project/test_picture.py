"""From bytes of a terminal to the animated picture, and the picture that the README shows."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.support.folders import PROJECT

ROOT = PROJECT
SVG = "{http://www.w3.org/2000/svg}"
SESSION = (
    "\x1b[1mPlan\x1b[0m  \x1b[36mtiny\x1b[0m\r\n",
    "\x1b[2m 0:01\x1b[0m  \x1b[1;31mrank 1: killed <&>\x1b[0m\r\n",
    "training ━━━━──  7/9\r\n",
    "\x1b[1A\x1b[2Ktraining ━━━━━━  9/9\r\n",
    "done  10.0 s  \x1b[32m███\x1b[0m\r\n$ ",
)


@pytest.fixture(scope="module")
def recorder() -> Iterator[ModuleType]:
    """``infra/record_run.py``, which is started as a script and so finds its neighbour."""
    sys.path.insert(0, str(ROOT / "infra"))
    try:
        import record_run
    finally:
        sys.path.remove(str(ROOT / "infra"))
    yield record_run
    for name in ("record_run", "terminal_svg"):
        del sys.modules[name]


def shown(root: ET.Element) -> list[list[str]]:
    """The text of each row of each frame, as a viewer puts it together from what is drawn once."""
    drawn = {group.get("id"): group for group in root.iter(f"{SVG}g") if group.get("id")}
    (reel,) = [group for group in root.iter(f"{SVG}g") if group.get("class") == "reel"]
    (window,) = [svg for svg in root.iter(f"{SVG}svg") if svg is not root]
    height = float(window.get("height", ""))
    rows: dict[float, str] = {}

    def place(use: ET.Element, top: float) -> None:
        top += float(use.get("y", ""))
        group = drawn[use.get("href", "").removeprefix("#")]
        for inner in group.findall(f"{SVG}use"):
            place(inner, top)
        if texts := [text.text or "" for text in group.findall(f"{SVG}text")]:
            rows[top] = "  ".join(texts)

    for use in reel.findall(f"{SVG}use"):
        place(use, 0)
    frames = int(max(rows) // height) + 1
    return [
        [rows[y] for y in sorted(rows) if frame * height <= y < (frame + 1) * height]
        for frame in range(frames)
    ]


def test_a_session_becomes_frames_that_say_the_same(recorder: ModuleType) -> None:
    recording = recorder.Recorder({"killed": "lost"})
    for second, text in enumerate(SESSION):
        recording.feed(text)
        recording.note(float(second))
    svg = recorder.render(
        recorder.timed(recording.frames), recorder.COLUMNS, recorder.ROWS, "a <title>", hold_s=5.0
    )
    root = ET.fromstring(svg)
    frames = shown(root)
    assert frames[0] == ["Plan  tiny"]
    assert frames[2] == ["Plan  tiny", "0:01  rank 1: lost <&>", "training ━━━━──  7/9"]
    assert frames[-1] == ["Plan  tiny", "0:01  rank 1: lost <&>", "training ━━━━━━  9/9", "done  10.0 s", "$"]
    style = root.findtext(f"{SVG}style") or ""
    assert len(re.findall(r"%\{transform", style)) == len(frames) + 1
    assert "animation:play 6.00s step-end infinite" in style, (
        "four seconds at four times the speed, and the hold"
    )
    assert f"translateY({-(len(frames) - 1) * recorder.ROWS * 19}px);animation" in style, (
        "at rest the last is seen"
    )
    (bar,) = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class")]
    assert bar.get("width") == "25.2"
    assert re.search(r"\.s\d\{opacity", style), "dim text"
    assert re.search(r"\.s\d\{fill:#ff7b72;font-weight:700\}", style), "bold red"


def test_still_time_is_shortened_and_hasty_screens_are_left_out(recorder: ModuleType) -> None:
    frames = [
        recorder.Frame(at_s, ((recorder.Run(0, str(at_s), recorder.Style()),),)) for at_s in (0, 60, 60.1, 61)
    ]
    told = [(frame.at_s, frame.lines[0][0].text) for frame in recorder.timed(frames)]
    assert told == [
        (0.0, "0"),
        (recorder.IDLE_S / recorder.SPEED, "60.1"),
        (pytest.approx((recorder.IDLE_S + 1) / recorder.SPEED), "61"),
    ]


def test_it_begins_where_the_plan_is_shown(recorder: ModuleType) -> None:
    def frame(at_s: float, *rows: str) -> object:
        return recorder.Frame(at_s, tuple((recorder.Run(0, row, recorder.Style()),) for row in rows))

    frames = [frame(0, "$ pyt"), frame(2, "$ python"), frame(5, "$ python", "Plan"), frame(9, "done")]
    assert [one.at_s for one in recorder.from_plan(frames)] == [0, 4]
    assert recorder.from_plan(frames[:2]) == frames[:2], "where there is none, it is as it was"


def test_what_shows_this_machine_is_not_written(
    recorder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder.socket, "gethostname", lambda: "secret-host")
    recorder.refuse_private("<svg>nothing</svg>")
    with pytest.raises(SystemExit, match="host name, 'secret-host'"):
        recorder.refuse_private("<text>on secret-host</text>")


def test_the_picture_of_the_readme_is_whole_small_and_private() -> None:
    path = ROOT / "docs" / "images" / "run.svg"
    text = path.read_text()
    root = ET.fromstring(text)
    assert path.stat().st_size < 200_000
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "style", "rect", "circle", "path", "text", "defs", "g", "use",
    }  # fmt: skip
    assert not re.search(r"url\(|@import|/tmp/|/home/|/root\b|/Users/|@font-face", text)
    assert "prefers-reduced-motion:reduce" in text
    first, *_, last = ("\n".join(rows) for rows in shown(root))
    assert "python -m orchestrator job=tiny_gpt" in first
    assert "Plan  tiny_gpt" in first, "a viewer that plays nothing shows a run, and no empty prompt"
    for word in ("finished", "goodput", "cost", "restarts", "mlflow ui"):
        assert word in last
