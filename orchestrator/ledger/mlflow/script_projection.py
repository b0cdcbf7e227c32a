"""What the script told MLflow → points, parameters and tags of the run. Pure and deterministic, as all of the
projection.

Attempts go on in the same run. A step that a later attempt does again is in MLflow already, which takes no
point back, so the first value of a step stays; the journal has both. That holds for a metric whose steps only
grow within an attempt. One that is logged without a step, or whose steps begin anew with each epoch, tells
nothing of what was done before, and keeps every point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.events import Record, ScriptTracked
from orchestrator.ledger.mlflow.names import OWN_TAGS, RUN_TAGS, SCRIPT_SYSTEM_TAGS, START_TAGS
from orchestrator.ledger.mlflow.points import Point, clean_key, clip, job_name

MAX_PARAM_CHARACTERS = 6000
# Of each metric, as of the steps: MLflow gets so many points in full, and the telling ones of each later
# stretch.
EVERY_POINT_UNTIL = 10_000
WINDOW = 0.001
_OUR_TAGS = frozenset([*START_TAGS, *RUN_TAGS, *OWN_TAGS])


@dataclass
class Series:
    """One metric. ``done_step`` is the last step of earlier attempts, ``step`` that of this one."""

    attempt: int
    done_step: int | None = None
    step: int | None = None
    grows: bool = True
    count: int = 0
    in_window: int = 0
    window: dict[str, tuple[int, Point]] = field(default_factory=dict)

    def is_new(self, attempt: int, step: int) -> bool:
        """Whether no earlier attempt has told of this step."""
        if attempt != self.attempt:
            if self.step is not None:
                self.done_step = max(self.step, self.done_step or 0)
            self.attempt, self.step = attempt, None
        if self.step is not None and step < self.step:
            self.grows = False
        self.step = step
        return not self.grows or not self.done_step or step > self.done_step

    def add(self, point: Point) -> list[Point]:
        """Those to keep, in order, once that is known."""
        self.count += 1
        if self.count <= EVERY_POINT_UNTIL:
            return [point]
        self.in_window += 1
        kept = self.count, point
        self.window["last"] = kept
        if not math.isfinite(point.value):
            self.window.setdefault("no number", kept)
        else:
            for name, sign in (("highest", 1), ("lowest", -1)):
                if name not in self.window or sign * point.value > sign * self.window[name][1].value:
                    self.window[name] = kept
        return self.rest() if self.in_window >= self.count * WINDOW else []

    def rest(self) -> list[Point]:
        kept = dict(self.window.values())
        self.window, self.in_window = {}, 0
        return [kept[number] for number in sorted(kept)]


class ScriptProjection:
    """Folds what the script told. ``params`` are those of the run as they are recorded: ours at first, then
    the script's under names that are free; ``tags`` is what it adds to the run's."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self.params = dict(params)
        self.tags: dict[str, str] = {}
        self._series: dict[str, Series] = {}

    def fold(self, record: Record, event: ScriptTracked) -> list[Point]:
        """The points of one record; sets parameters and tags."""
        prefix = f"rank-{event.rank}/" if event.rank else ""
        for name, text in event.params.items():
            self._param(clean_key(prefix + name), clip(text, MAX_PARAM_CHARACTERS))
        for name, text in event.tags.items():
            if not name.rpartition("/")[2].startswith("mlflow.") or name in SCRIPT_SYSTEM_TAGS:
                key = prefix + name
                self.tags[f"job/{key}" if key in _OUR_TAGS else key] = text
        points: list[Point] = []
        for name, told in event.metrics.items():
            key = clean_key(prefix + job_name(name))
            series = self._series.setdefault(key, Series(event.attempt))
            # A step or a time that is no number is nothing that MLflow has a place for.
            whole = (one for one in told if len(one) == 3 and all(map(math.isfinite, one[:2])))
            for step, time_ms, value in whole:
                if series.is_new(event.attempt, int(step)):
                    points += series.add(Point(record.seq, key, float(value), int(time_ms), int(step)))
        return points

    def rest(self) -> list[Point]:
        """What is to be kept of stretches that are not full, at the run's end."""
        return [point for series in self._series.values() for point in series.rest()]

    def _param(self, name: str, value: str) -> None:
        if self.params.setdefault(name, value) != value:
            self.tags[f"param.{name}"] = value
