"""What a check has found, as lines of JSON between its processes and as a table for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.figures import table

# Takes each figure as soon as it is known: a step that is stopped keeps those that it has told.
Tell = Callable[["Figure"], None]


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED OUT"
    SKIPPED = "skipped"


class Skipped(Exception):
    """Why a step has nothing to look at here."""


@dataclass(frozen=True)
class Setting:
    """Where a step runs: on CUDA or on processor cores, with a folder of its own."""

    cuda: bool
    folder: Path

    @property
    def device(self) -> str:
        return "cuda" if self.cuda else "cpu"


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``wanted`` is what it is to be, in words, and ``good`` whether it is; None where
    nothing is expected of it."""

    name: str
    value: float | str
    unit: str = ""
    wanted: str = ""
    good: bool | None = None

    @property
    def text(self) -> str:
        if isinstance(self.value, str):
            return self.value
        size = abs(self.value)
        digits = 0 if size >= 100 or size == int(size) else 1 if size >= 10 else 2 if size >= 0.1 else 4
        return f"{self.value:,.{digits}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """Of one step; ``why`` says what went wrong, in one line."""

    step: str
    status: Status
    seconds: float
    figures: tuple[Figure, ...] = ()
    why: str = ""

    @property
    def well(self) -> bool:
        return self.status in (Status.PASSED, Status.SKIPPED)


def figure_lines(path: Path) -> list[Figure]:
    """Those that a step has told; the last line may be torn."""
    *whole, _torn = path.read_text().split("\n") if path.exists() else [""]
    return [Figure(**json.loads(line)) for line in whole]


def teller(path: Path) -> Tell:
    """Writes each figure as a line."""

    def tell(figure: Figure) -> None:
        with path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")

    return tell


def to_json(outcomes: Sequence[Outcome], conditions: Sequence[str]) -> str:
    return json.dumps(
        {"conditions": list(conditions), "steps": [dataclasses.asdict(one) for one in outcomes]}, indent=1
    )


def from_json(text: str) -> tuple[list[Outcome], list[str]]:
    """Raises ValueError, KeyError or TypeError for what is no check."""
    read = json.loads(text)
    outcomes = [
        Outcome(
            step=one["step"],
            status=Status(one["status"]),
            seconds=one["seconds"],
            figures=tuple(Figure(**figure) for figure in one["figures"]),
            why=one["why"],
        )
        for one in read["steps"]
    ]
    return outcomes, list(read["conditions"])


def rows(outcomes: Iterable[Outcome]) -> list[list[str]]:
    """One for each figure, and one for each step that did not end well."""
    made = []
    for one in outcomes:
        marks = {True: "yes", False: "NO", None: ""}
        made += [[one.step, each.name, each.text, each.wanted, marks[each.good]] for each in one.figures]
        if one.status is not Status.PASSED:
            made.append([one.step, f"{one.status.value} after {one.seconds:.0f} s", one.why, "", ""])
    return made


def section(outcomes: Sequence[Outcome], conditions: Sequence[str]) -> str:
    """For docs/benchmarks.md."""
    well = sum(one.status is Status.PASSED for one in outcomes)
    lines = [
        "## On a GPU",
        "",
        f"{well} of {len(outcomes)} steps of `make gpu-check` passed.",
        "",
        *table(["step", "figure", "value", "wanted", "met"], rows(outcomes)),
        "",
        *conditions,
    ]
    return "\n".join(lines)
