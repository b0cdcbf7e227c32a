"""Record a real run into docs/images/run.svg: ``make picture``, after a change of what the terminal says.

The command runs in a pseudo-terminal, from an empty folder with an empty home. What it writes goes through
a terminal emulator; what the screen then shows, and when, becomes the frames of an animation. Idle time is
shortened, the rest is played faster. In the middle of training one rank is killed, to show what follows.
Home folder, host name and folder of temporary files are replaced by ``~``, ``node-0`` and ``$TMPDIR``;
nothing else is changed. The picture begins where the plan is on the screen, so that its first frame shows a
run too, wherever nothing is played.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pyte
from pyte.screens import Char
from terminal_svg import Frame, Line, Run, Style, render

PROJECT = Path(__file__).resolve().parents[1]
TARGET = PROJECT / "docs" / "images" / "run.svg"
COLUMNS, ROWS = 112, 33
QUIET_S = 0.03  # a screen is complete when nothing has been written for so long
IDLE_S = 1.5  # of stillness, before it is played faster
SPEED = 4.0  # at least; a slow machine's run is played faster
SMALLEST_GAP_S, HOLD_S, LONGEST_S = 0.2, 8.0, 26.0  # of the picture's own time
MOST_BYTES = 200_000
RUN_TIMEOUT_S = 900.0
PROMPT = "\x1b[32m$\x1b[0m "


class Screen(pyte.Screen):  # type: ignore[misc]
    """Knows dim text, which pyte does not: it is kept in the place of blinking text, which nobody uses."""

    def select_graphic_rendition(self, *attributes: int, **flags: Any) -> None:
        if attributes[:1] not in ((38,), (48,)):
            attributes = tuple(5 if attribute == 2 else attribute for attribute in attributes)
        super().select_graphic_rendition(*attributes, **flags)


def lines_of(screen: pyte.Screen) -> tuple[Line, ...]:
    """The screen's rows as runs of one style; two blanks or more end a run, so that columns stay in place."""
    rows = []
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        runs: list[Run] = []
        column = 0
        for style, group in groupby(cells, key=style_of):
            text = "".join(cell.data for cell in group)
            runs += [Run(column + begin, word, style) for begin, word in words_of(text)]
            column += len(text)
        rows.append(tuple(runs))
    return tuple(rows)


def style_of(cell: Char) -> Style:
    return Style(cell.bg if cell.reverse else cell.fg, cell.bold, dim=cell.blink)


def words_of(text: str) -> Iterator[tuple[int, str]]:
    """Stretches without two blanks in a row, each with where it begins."""
    begin = 0
    for part in text.split("  "):
        stripped = part.strip(" ")
        if stripped:
            yield begin + part.index(stripped), stripped
        begin += len(part) + 2


class Recorder:
    """Feeds an emulator and notes each new screen with the time, in seconds from the start."""

    def __init__(self, replaced: dict[str, str]) -> None:
        self.screen = Screen(COLUMNS, ROWS)
        self.frames: list[Frame] = []
        self._stream = pyte.Stream(self.screen)
        self._replaced = replaced

    def feed(self, text: str) -> None:
        for name, shown in self._replaced.items():
            text = text.replace(name, shown)
        self._stream.feed(text)

    def note(self, at_s: float) -> None:
        lines = lines_of(self.screen)
        if not self.frames or lines != self.frames[-1].lines:
            self.frames.append(Frame(at_s, lines))

    def type(self, command: str) -> float:
        """The command at a prompt, a few characters at a time; returns when it is entered."""
        self.feed(PROMPT)
        at_s = 0.0
        for begin in range(0, len(command), 4):
            self.note(at_s)
            self.feed(command[begin : begin + 4])
            at_s += SPEED * SMALLEST_GAP_S
        self.note(at_s)
        self.feed("\r\n")
        return at_s + SPEED * SMALLEST_GAP_S


def record(arguments: Sequence[str], kill_at_step: int) -> tuple[list[Frame], str]:
    """Run ``python -m orchestrator`` with the arguments; returns the frames and the command."""
    command = f"python -m orchestrator {shlex.join(arguments)}"
    with tempfile.TemporaryDirectory() as home:
        recorder = Recorder({home: "~", socket.gethostname(): "node-0", tempfile.gettempdir(): "$TMPDIR"})
        entered_s = recorder.type(command)
        child = pexpect.spawn(
            sys.executable,
            ["-m", "orchestrator", *arguments],
            cwd=home,
            env=environment(home),
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            codec_errors="replace",
        )
        try:
            watch(child, recorder, entered_s, kill_at_step)
        finally:
            child.close(force=True)
        if child.exitstatus:
            said = "\n".join(line for line in recorder.screen.display if line.strip())
            raise SystemExit(
                f"{said}\n'{command}' ended with status {child.exitstatus}; no picture was written"
            )
        recorder.feed(PROMPT)
        recorder.note(recorder.frames[-1].at_s + SPEED * SMALLEST_GAP_S)
    return recorder.frames, command


def watch(child: Any, recorder: Recorder, entered_s: float, kill_at_step: int) -> None:
    """Note every screen until the command ends; kill its rank 1 once, when the step is shown."""
    begin_s = time.monotonic() - entered_s
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            recorder.feed(child.read_nonblocking(1 << 16, timeout=QUIET_S))
        except pexpect.TIMEOUT:
            recorder.note(time.monotonic() - begin_s)
            if kill_at_step and step_shown(recorder.screen) >= kill_at_step:
                kill_at_step = 0
                kill_rank(child.pid, 1)
        except pexpect.EOF:
            recorder.note(time.monotonic() - begin_s)
            return
    raise SystemExit(f"the run did not end within {RUN_TIMEOUT_S:g} s; no picture was written")


def step_shown(screen: pyte.Screen) -> int:
    """The step beside the progress bar, ``62/150``; -1 while there is none."""
    for line in screen.display:
        if line.startswith("training "):
            done = next((word.partition("/")[0] for word in line.split() if "/" in word), "")
            return int(done) if done.isdigit() else -1
    return -1


def kill_rank(ours: int, rank: int) -> None:
    """SIGKILL to one rank among the descendants of a run."""
    for process in psutil.Process(ours).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(f"orchestrator rank {rank}/"):
                process.send_signal(signal.SIGKILL)
                return
    raise SystemExit(f"no process of rank {rank} was found; no picture was written")


def environment(home: str) -> dict[str, str]:
    """Of the command: this checkout, its programs by name, 256 colours, and nothing of the caller's."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return {
        "PATH": path,
        "PYTHONPATH": str(PROJECT),
        "HOME": home,
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
    }


def from_plan(frames: Sequence[Frame]) -> list[Frame]:
    """The frames from the first on that shows a plan whole: the command is above it."""
    shown = [any(run.text.startswith("Plan") for line in frame.lines for run in line) for frame in frames]
    first = shown.index(True) if True in shown else 0
    return [Frame(frame.at_s - frames[first].at_s, frame.lines) for frame in frames[first:]]


def timed(frames: Sequence[Frame]) -> list[Frame]:
    """The frames at the times of the picture: idle time shortened, faster, none shorter than
    ``SMALLEST_GAP_S``."""
    lasting_s = [min(frame.at_s - before.at_s, IDLE_S) for before, frame in pairwise([frames[0], *frames])]
    speed = max(SPEED, sum(lasting_s) / LONGEST_S)
    shown: list[Frame] = []
    at_s = 0.0
    for frame, since_s in zip(frames, lasting_s, strict=True):
        at_s += since_s / speed
        if shown and at_s - shown[-1].at_s < SMALLEST_GAP_S * 0.999:
            frame = Frame(shown.pop().at_s, frame.lines)
            shown.append(frame)
        else:
            shown.append(Frame(at_s, frame.lines))
    return shown


def refuse_private(svg: str) -> None:
    """Raise SystemExit when something of this machine is to be seen."""
    private = {"host name": socket.gethostname(), "folder": tempfile.gettempdir(), "prefix": sys.prefix}
    private |= {"user": f"/{getpass.getuser()}", "home": str(Path.home()), "working directory": os.getcwd()}
    for what, name in private.items():
        if len(name) > 1 and name in svg:
            raise SystemExit(f"the picture shows this machine's {what}, {name!r}; it was not written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kill-at-step", type=int, default=70, help="kill rank 1 when this step is shown; 0 is never"
    )
    parser.add_argument("--output", type=Path, default=TARGET)
    options, arguments = parser.parse_known_args()
    frames, command = record(arguments or ["job=tiny_gpt"], options.kill_at_step)
    frames = timed(from_plan(frames))
    title = command + (
        f"   (rank 1 is killed at step {options.kill_at_step})" if options.kill_at_step else ""
    )
    svg = render(frames, COLUMNS, ROWS, title, HOLD_S)
    refuse_private(svg)
    if len(svg.encode()) > MOST_BYTES:
        raise SystemExit(f"the picture has {len(svg.encode())} bytes, more than {MOST_BYTES}: raise SPEED")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(svg)
    print(
        f"{options.output}: {len(frames)} frames, {frames[-1].at_s + HOLD_S:.0f} s, {len(svg.encode()):,}"
        " bytes"
    )


if __name__ == "__main__":
    main()
