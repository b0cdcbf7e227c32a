"""GPUs in use over time, stacked by team, beside what there is."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cli.show.fleet_lanes import Window
from orchestrator.cli.show.svg_chart import LEFT, OTHERS, RIGHT, TOP, WIDTH, Scale, safe
from orchestrator.dispatch.fleet_seen import FleetSeen
from orchestrator.dispatch.timeline import Stretch

_HEIGHT, _BOTTOM = 250, 226
_MOST_TIMES = 400
_TICK_APART = 56.0  # of the drawing, for a tick's letters

Rows = Sequence[tuple[float, float, float]]  # time, below, above


def use_over_time(seen: FleetSeen, series: dict[str, int], window: Window) -> str:
    """ "" where nothing ran and nothing is to run."""
    drawn = [one for one in seen.stretches if window.meets(one.from_at, one.until_at)]
    if not drawn:
        return ""
    there = sum(pool.gpus for pool in seen.queue.pools)
    times = _times(drawn, window)
    stacks = _stacks(drawn, series, times)
    highest = max([there, *map(sum, zip(*stacks.values(), strict=True))])
    across = Scale(window.from_at, window.until_at, False, LEFT, WIDTH - RIGHT)
    up = Scale(0.0, highest * 1.05, False, _BOTTOM, TOP)
    parts, base = [_grid(across, up, window)], [0.0] * len(times)
    for place in sorted(stacks):
        above = [below + own for below, own in zip(base, stacks[place], strict=True)]
        rows = list(zip(times, base, above, strict=True))
        before, after = (
            [row for row in rows if row[0] < window.now],
            [row for row in rows if row[0] >= window.now],
        )
        parts.append(_area(before, window.now, f"area t{place}", across, up))
        parts.append(_area(after, window.until_at, f"area later t{place}", across, up))
        base = above
    parts.append(f'<path class="most" d="M{LEFT} {up.at(there):.1f}H{WIDTH - RIGHT}"/>')
    parts.append(f'<path class="at" d="M{across.at(window.now):.1f} {TOP}V{_BOTTOM}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {_HEIGHT}" role="img" aria-label="GPUs in use over time, by team">'
        f"{''.join(parts)}</svg>"
    )


def _times(drawn: Sequence[Stretch], window: Window) -> list[float]:
    """When something changes, or even times where that is too often; now is one of them."""
    found = {at for one in drawn for at in (one.from_at, one.until_at)}
    found = {at for at in found if window.from_at < at < window.until_at}
    if len(found) > _MOST_TIMES:
        step_s = (window.until_at - window.from_at) / _MOST_TIMES
        found = {window.from_at + step_s * number for number in range(1, _MOST_TIMES)}
    return sorted({window.from_at, window.now, *found})


def _stacks(
    drawn: Sequence[Stretch], series: dict[str, int], times: Sequence[float]
) -> dict[int, list[float]]:
    """GPUs at each time, by the colour of their team."""
    stacks = {place: [0.0] * len(times) for place in {series.get(one.team, OTHERS) for one in drawn}}
    for one in drawn:
        row = stacks[series.get(one.team, OTHERS)]
        for number, at in enumerate(times):
            if one.from_at <= at < one.until_at:
                row[number] += sum(one.gpus)
    return stacks


def _area(rows: Rows, ends_at: float, kind: str, across: Scale, up: Scale) -> str:
    """Each row holds until the next one begins."""
    if not any(above > below for _, below, above in rows):
        return ""
    ends = [*(at for at, _, _ in rows[1:]), ends_at]
    there = "".join(
        f"L{across.at(at):.1f} {up.at(above):.1f}H{across.at(until):.1f}"
        for (at, _, above), until in zip(rows, ends, strict=True)
    )
    back = "".join(
        f"L{across.at(until):.1f} {up.at(below):.1f}H{across.at(at):.1f}"
        for (at, below, _), until in reversed(list(zip(rows, ends, strict=True)))
    )
    return f'<path class="{kind}" d="M{there[1:]}{back}Z"/>'


def _grid(across: Scale, up: Scale, window: Window) -> str:
    parts, last = [], -_TICK_APART
    for value in up.ticks():
        place = up.at(value)
        parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="up" x="{LEFT - 6}" y="{place + 4:.1f}">{value:,.0f}</text>')
    for at, text in window.ticks():
        place = across.at(at)
        if place - last >= _TICK_APART and place < WIDTH - RIGHT - _TICK_APART / 4:
            last = place
            parts.append(f'<text class="tick" x="{place:.1f}" y="{_BOTTOM + 16}">{safe(text)}</text>')
    return "".join(parts)
