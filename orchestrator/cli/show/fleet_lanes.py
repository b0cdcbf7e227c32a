"""What runs on which nodes over time, as HTML: a lane for each node, a bar for each job on it.

Places across are shares of the width, so that a phone and a wide screen show the same with letters of one
size; what is past is on the left of a line that says now, and what is to come on its right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.cli.show.svg_chart import safe
from orchestrator.dispatch.pools_now import PoolNow
from orchestrator.dispatch.reserving import NodesReserved
from orchestrator.dispatch.timeline import MOST_NODES, Closed, Kind, Stretch
from orchestrator.dispatch.times import told
from orchestrator.text import plural

_HEIGHTS = ((16, 36), (32, 24), (MOST_NODES, 16))  # up to so many nodes, pixels of a lane
_GAP = 3
_STRIP = 18  # of a reservation, and of a job that has no nodes yet
_MOST_STRIPS = 14
_LEAST_LETTERS = 11  # pixels of a bar, for its name to be written on it
_MOST_TICKS = 10
_APART = 4.0  # percent of the width, between now and a tick's letters
_STEPS_S = (300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800)


@dataclass(frozen=True)
class Window:
    """The times that are drawn."""

    from_at: float
    until_at: float
    now: float

    def share(self, at: float) -> float:
        """Its place across, in percent."""
        at = min(max(at, self.from_at), self.until_at)
        return 100.0 * (at - self.from_at) / (self.until_at - self.from_at)

    def meets(self, from_at: float, until_at: float) -> bool:
        return until_at > self.from_at and from_at < self.until_at

    def ticks(self) -> list[tuple[float, str]]:
        """Round times of this machine's zone, and how each is called."""
        span_s = self.until_at - self.from_at
        step_s = next((step for step in _STEPS_S if span_s / step <= _MOST_TICKS), _STEPS_S[-1])
        midnight = datetime.fromtimestamp(self.from_at).replace(hour=0, minute=0, second=0, microsecond=0)
        found = []
        for number in range(int((span_s + 2 * 86400) // step_s) + 2):
            when = midnight + timedelta(seconds=number * step_s)
            if self.from_at <= when.timestamp() <= self.until_at:
                is_day = when.hour == 0 and when.minute == 0
                found.append((when.timestamp(), f"{when:%a %-d}" if is_day else f"{when:%H:%M}"))
        return found


def window_of(stretches: Iterable[Stretch], now: float, past_s: float, future_s: float) -> Window:
    """From the first that is shown to the last that ends, within the limits; a quarter of an hour at the
    least on both sides of now."""
    stretches = list(stretches)
    first = min((one.from_at for one in stretches), default=now)
    ends = [one.until_at for one in stretches if math.isfinite(one.until_at)]
    starts = [one.from_at for one in stretches if one.kind is Kind.TO_COME]
    last = max([*ends, *starts], default=now)
    from_at = min(max(first, now - past_s), now - 900.0)
    until_at = max(min(last, now + future_s), now + 900.0)
    margin_s = 0.02 * (until_at - from_at)
    return Window(from_at, until_at + margin_s, now)


def lanes(
    pool: PoolNow,
    stretches: Sequence[Stretch],
    closed: Sequence[Closed],
    reservations: Sequence[NodesReserved],
    hosts: Mapping[tuple[str, int], str],
    series: Mapping[str, int],
    window: Window,
) -> str:
    """One pool: its nodes, below them who has none yet, above them what is reserved."""
    here = [one for one in stretches if one.pool == pool.pool and window.meets(one.from_at, one.until_at)]
    kept = [one for one in reservations if one.pool == pool.pool and one.from_unix_s < window.until_at]
    drawn = pool.most_nodes <= MOST_NODES
    height = next((height for most, height in _HEIGHTS if pool.most_nodes <= most), _STRIP)
    waiting = _strips([one for one in here if not one.nodes or not drawn])
    names, parts, top = [], [], 0.0
    for one in kept[:_MOST_STRIPS]:
        names.append(_name(one.name, _STRIP))
        parts.append(_reservation(one, top, window))
        top += _STRIP
    first = top
    if drawn:
        for number in range(pool.most_nodes):
            names.append(_name(hosts.get((pool.pool, number), f"node {number}"), height))
            parts.append(_box("lane", 0.0, 100.0, top, height - _GAP))
            top += height
        parts += _closed([one for one in closed if one.pool == pool.pool], first, height, window)
        parts += _bars([one for one in here if one.nodes], pool, first, height, series, window)
    for number, row in enumerate(waiting[:_MOST_STRIPS]):
        names.append(_name(("no nodes yet" if drawn else "jobs") if number == 0 else "", _STRIP))
        parts += [_bar(one, top, _STRIP - _GAP, series, window) for one in row]
        top += _STRIP
    if left := sum(map(len, waiting[_MOST_STRIPS:])):
        names.append(_name(f"and {left:,} more", _STRIP))
        top += _STRIP
    return _framed(names, parts, top, window)


def _framed(names: Sequence[str], parts: Sequence[str], height: float, window: Window) -> str:
    now, places = window.share(window.now), [(window.share(at), text) for at, text in window.ticks()]
    ticks = "".join(
        f'<span style="left:{place:.2f}%">{safe(text)}</span>'
        for place, text in places
        if abs(place - now) > _APART and place < 100.0 - _APART / 2
    )
    rules = "".join(f'<i style="left:{place:.2f}%"></i>' for place, _ in places)
    return (
        f'<div class="scroll" tabindex="0" data-now="{now / 100:.3f}"><div class="lanes">'
        f'<div class="names"><div class="head"></div>{"".join(names)}</div>'
        f'<div class="plot"><div class="head">{ticks}'
        f'<b style="left:{now:.2f}%">now {time.strftime("%H:%M", time.localtime(window.now))}</b></div>'
        f'<div class="field" style="height:{height:.0f}px">{rules}{"".join(parts)}'
        f'<em style="left:{now:.2f}%"></em></div></div></div></div>'
    )


def _name(text: str, height: float) -> str:
    return f'<div style="height:{height:.0f}px" title="{safe(text)}">{safe(text)}</div>'


def _box(
    kind: str, left: float, width: float, top: float, height: float, inside: str = "", title: str = ""
) -> str:
    said = f' title="{safe(title)}"' if title else ""
    return (
        f'<div class="{kind}" style="left:{left:.2f}%;width:{width:.2f}%;top:{top:.1f}px;'
        f'height:{height:.1f}px"{said}>{inside}</div>'
    )


def _reservation(one: NodesReserved, top: float, window: Window) -> str:
    left, right = window.share(one.from_unix_s), window.share(one.until_unix_s)
    who = one.job or one.team
    said = f"{plural(one.nodes, 'node')} for {who}" + (f", {one.why}" if one.why else "")
    times = f"{told(one.from_unix_s, window.now)} to {told(one.until_unix_s, window.now)}"
    return _box("kept", left, right - left, top, _STRIP - _GAP, f"<b>{safe(said)}</b>", f"{said}, {times}")


def _closed(closed: Sequence[Closed], first: float, height: float, window: Window) -> list[str]:
    found = []
    for one in closed:
        if window.meets(one.from_at, one.until_at):
            left, right = window.share(one.from_at), window.share(one.until_at)
            found.append(
                _box("closed", left, right - left, first + one.node * height, height - _GAP, "", one.why)
            )
    return found


def _bars(
    stretches: Sequence[Stretch],
    pool: PoolNow,
    first: float,
    height: float,
    series: Mapping[str, int],
    window: Window,
) -> list[str]:
    """A gang on whole nodes side by side is one bar; of a node in part each job has its share of the lane."""
    room = height - _GAP
    free_from = [[-math.inf] * pool.gpus_per_node for _ in range(pool.most_nodes)]
    found = []
    for one in sorted(stretches, key=lambda one: (one.from_at, one.job)):
        whole = all(gpus >= pool.gpus_per_node for gpus in one.gpus)
        for run in _side_by_side([node for node in one.nodes if node < pool.most_nodes]) if whole else ():
            for node in run:
                free_from[node] = [one.until_at] * pool.gpus_per_node
            found.append(_bar(one, first + run[0] * height, len(run) * height - _GAP, series, window))
        for node, gpus in zip(one.nodes, one.gpus, strict=True) if not whole else ():
            if node < pool.most_nodes:
                rows = _rows(free_from[node], gpus, one.from_at)
                for row in rows:
                    free_from[node][row] = one.until_at
                top = first + node * height + room * rows[0] / pool.gpus_per_node
                tall = max(room * len(rows) / pool.gpus_per_node - 1.0, 2.0)
                found.append(_bar(one, top, tall, series, window))
    return found


def _rows(free_from: Sequence[float], gpus: int, at: float) -> list[int]:
    """Rows of a lane that are free then, side by side where there are so many."""
    gpus = min(gpus, len(free_from))
    free = [row for row, since in enumerate(free_from) if since <= at + 1.0]
    for first in free:
        run = list(range(first, first + gpus))
        if all(row in free for row in run):
            return run
    return list(range(gpus))


def _side_by_side(nodes: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for node in sorted(nodes):
        if runs and runs[-1][-1] == node - 1:
            runs[-1].append(node)
        else:
            runs.append([node])
    return runs


def _strips(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """In as few rows as they need."""
    rows: list[list[Stretch]] = []
    for one in sorted(stretches, key=lambda one: (one.from_at, one.job)):
        row = next((row for row in rows if row[-1].until_at <= one.from_at), None)
        if row is None:
            rows.append([one])
        else:
            row.append(one)
    return rows


def _bar(one: Stretch, top: float, height: float, series: Mapping[str, int], window: Window) -> str:
    left, right = window.share(one.from_at), window.share(one.until_at)
    kind = f"bar {one.kind.value.replace('_', '-')} t{series.get(one.team, 6)}"
    kind += " goes-on" if one.until_at > window.until_at else ""
    ends = told(one.until_at, window.now) if math.isfinite(one.until_at) else "nobody knows when"
    verb = {Kind.RAN: "ran", Kind.RUNS: "runs", Kind.TO_COME: "is to run"}[one.kind]
    on = f" of {one.pool}" if not one.nodes else ""
    said = (
        f"{one.job} ({one.team or 'no team'}) {verb} on {plural(sum(one.gpus), 'GPU')}{on},"
        f" {told(one.from_at, window.now)} to {ends}"
    )
    inside = f"<b>{safe(one.job)}</b>" if height >= _LEAST_LETTERS else ""
    return _box(kind, left, max(right - left, 0.15), top, height, inside, said)
