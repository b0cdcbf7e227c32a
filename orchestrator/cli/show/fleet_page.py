"""The fleet as a page: what runs on which nodes, what ran and what is to come, the queue with its ranges,
dollars by team, and what is about to change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.cli.show.fleet_lanes import Window, lanes, window_of
from orchestrator.cli.show.fleet_use import use_over_time
from orchestrator.cli.show.page import Cell, charts, legend, page, sorted_table, swatch, tiles
from orchestrator.cli.show.queue_sentences import cause, named
from orchestrator.cli.show.queue_table import UNLED, change_words, is_late, pool_line, span, step_of, where
from orchestrator.cli.show.svg_chart import OTHERS, SERIES, bars, safe
from orchestrator.dispatch.fleet_seen import FleetSeen
from orchestrator.dispatch.queue_view import QueuedJob, When
from orchestrator.dispatch.quotas import QuotaRow
from orchestrator.dispatch.timeline import MOST_NODES
from orchestrator.dispatch.times import told
from orchestrator.text import UNKNOWN, plural, ranges, usd

PAST_S, FUTURE_S = 12 * 3600.0, 24 * 3600.0
MOST_BARS, MOST_ROWS = 12, 500
_MOST_NAMED = 8  # nodes with a row each
_DOLLARS = {"spent": "spent this month", "stops": "for stops of others", "to_come": "to come"}


def fleet_page(seen: FleetSeen, again_s: float | None = None) -> str:
    """The whole page; with ``again_s`` it is asked for again by itself."""
    window = window_of(seen.stretches, seen.now, PAST_S, FUTURE_S)
    series = _series(seen)
    led = f"led by process {seen.led_by}" if seen.led_by is not None else UNLED
    subtitle = f"{seen.run_root}; as of {told(seen.now, seen.now)}; {led}"
    drawn = [
        (
            "GPUs in use",
            use_over_time(seen, series, window),
            "by team; the line is what there is. On the right of now: one future, in which each job takes"
            " the middle of its times",
        ),
        ("Dollars by team", _dollars(seen), "of this month, and what jobs in the queue are still to cost"),
    ]
    parts = [
        tiles(_figures(seen)),
        _legend(series),
        *(_pool(seen, place, series, window) for place in range(len(seen.queue.pools))),
        charts(drawn),
        _jobs(seen),
        _quotas(seen.quotas),
        _changes(seen),
        _ended(seen),
    ]
    style = Path(__file__).with_name("fleet_page.css").read_text()
    return page(f"Fleet of {seen.run_root.name}", subtitle, parts, style=style, again_s=again_s)


def _series(seen: FleetSeen) -> dict[str, int]:
    """A colour for each team: those that have used, use or wait for most have their own."""
    gpus: dict[str, float] = {}
    for one in seen.stretches:
        gpus[one.team] = gpus.get(one.team, 0.0) + sum(one.gpus)
    for row in seen.quotas:
        gpus.setdefault(row.team, 0.0)
    ordered = sorted(gpus, key=lambda team: (-gpus[team], team))
    largest = sorted(ordered[:SERIES])
    return {team: largest.index(team) if team in largest else OTHERS for team in ordered}


def _figures(seen: FleetSeen) -> list[tuple[str, str]]:
    jobs, pools = seen.queue.jobs, seen.queue.pools
    waiting = [job for job in jobs if job.why is not None]
    late = sum(is_late(job) for job in jobs)
    missing = sum(len(pool.down) for pool in pools)
    starts = [job.starts.at_unix_s for job in waiting if job.starts and job.starts.at_unix_s is not None]
    spent = {row.team: row.month_usd for row in seen.quotas}
    to_come = [job.to_come_usd for job in jobs if job.to_come_usd is not None]
    unknown = sum(job.to_come_usd is None and job.ends is not None for job in jobs)
    figures = [
        ("GPUs in use", f"{sum(pool.used for pool in pools):,} of {sum(pool.gpus for pool in pools):,}"),
        ("jobs have nodes", f"{len(jobs) - len(waiting):,}"),
        ("jobs wait", f"{len(waiting):,}"),
        ("GPUs are waited for", f"{sum(job.gpus for job in waiting):,}"),
        ("the next starts", told(min(starts), seen.now) if starts else UNKNOWN),
        ("spent this month", usd(sum(spent.values()))),
        (
            "to come" + (f", and of {plural(unknown, 'job')} nobody knows" if unknown else ""),
            usd(sum(to_come)),
        ),
    ]
    figures += [("misses its deadline" if late == 1 else "miss their deadline", f"{late:,}")] if late else []
    gone = "node is not there" if missing == 1 else "nodes are not there"
    return figures + ([(gone, f"{missing:,}")] if missing else [])


def _legend(series: dict[str, int]) -> str:
    def sample(kind: str, place: int) -> str:
        return f'<span class="sample bar {kind} t{place}"></span>'

    names = {place: team or "no team" for team, place in series.items() if place != OTHERS}
    entries = [(sample("runs", place), names[place]) for place in sorted(names)]
    entries += [(sample("runs", OTHERS), "other teams")] if OTHERS in series.values() else []
    return legend([
        *entries,
        (sample("ran", OTHERS), "ran"), (sample("runs", OTHERS), "runs"),
        (sample("to-come", OTHERS), "is to run"),
    ])  # fmt: skip


def _pool(seen: FleetSeen, place: int, series: dict[str, int], window: Window) -> str:
    pool = seen.queue.pools[place]
    drawn = lanes(pool, seen.stretches, seen.closed, seen.reservations, seen.hosts, series, window)
    note = f"{pool_line(pool, seen.now)}; {usd(pool.usd_per_gpu_hour)} a GPU-hour"
    if pool.most_nodes > MOST_NODES:
        note += f"; nodes are drawn of pools with up to {MOST_NODES}"
    return f'<section class="pool"><h2>{safe(pool.pool)}</h2><p>{safe(note)}</p>{drawn}</section>'


def _dollars(seen: FleetSeen) -> str:
    parts: dict[str, dict[str, float]] = {}
    for row in seen.quotas:
        parts[row.team] = {"spent": row.month_usd, "stops": row.month_stops_usd}
    for job in seen.queue.jobs:
        told_of = parts.setdefault(job.team, {})
        told_of["to_come"] = told_of.get("to_come", 0.0) + (job.to_come_usd or 0.0)
    rows = sorted(parts.items(), key=lambda one: -sum(one[1].values()))[:MOST_BARS]
    rows = [
        (team or "no team", {kind: usd for kind, usd in told_of.items() if usd > 0}) for team, told_of in rows
    ]
    drawing = bars(rows, list(_DOLLARS), usd, "dollars by team")
    kinds = [kind for kind in _DOLLARS if any(kind in told_of for _, told_of in rows)]
    return drawing and drawing + legend((swatch(kind), _DOLLARS[kind]) for kind in kinds)


def _jobs(seen: FleetSeen) -> str:
    if not seen.queue.jobs:
        return '<section class="table"><p class="note">No job is in the queue.</p></section>'
    headings = [
        ("job", False), ("state", False), ("team", False), ("class", False), ("GPUs", True),
        ("where", False), ("starts", True), ("ends", True), ("due", True), ("step", True), ("spent", True),
        ("to come", True), ("why", False),
    ]  # fmt: skip
    rows = [_job(job, seen.now) for job in seen.queue.jobs[:MOST_ROWS]]
    told_of = [place for place in range(len(headings)) if any(row[place].text for row in rows)]
    table = sorted_table(
        [headings[place] for place in told_of], [[row[place] for place in told_of] for row in rows], "jobs"
    )
    left = len(seen.queue.jobs) - len(rows)
    return table + (
        f'<p class="note">and {left:,} more, of least worth; "queue --json" has all</p>' if left else ""
    )


def _job(job: QueuedJob, now: float) -> list[Cell]:
    due = told(job.deadline_unix_s, now) if job.deadline_unix_s is not None else ""
    return [
        Cell(job.key),
        Cell(job.state),
        Cell(job.team),
        Cell(job.job_class),
        Cell(f"{job.gpus:,}", job.gpus),
        Cell(where(job) or (job.pool or "")),
        _time(job.starts, now),
        _time(job.ends, now),
        Cell(f"{due}, late" if is_late(job) else due, job.deadline_unix_s),
        Cell(step_of(job), job.step),
        Cell(usd(job.spent_usd), job.spent_usd),
        Cell(usd(job.to_come_usd), job.to_come_usd),
        Cell(_why(job, now)),
    ]


def _why(job: QueuedJob, now: float) -> str:
    if job.why is not None:
        return cause(job.why, job.because, now)
    return f"saves and leaves for {named(job.stops_for)}" if job.state == "stopping" and job.stops_for else ""


def _time(when: When | None, now: float) -> Cell:
    return Cell(span(when, now), when.at_unix_s or when.low_unix_s if when is not None else None)


def _quotas(rows: Sequence[QuotaRow]) -> str:
    if not rows:
        return ""
    headings = [
        ("team", False), ("pool", False), ("quota", True), ("has", True), ("lends", True), ("borrows", True),
        ("may borrow", True), ("waits for", True), ("this month", True), ("of", True), ("for stops", True),
    ]  # fmt: skip

    def figure(value: float | None, text: str) -> Cell:
        return Cell(text if value else "", value)

    cells = [
        [
            Cell(row.team),
            Cell(row.pool),
            figure(row.quota, f"{row.quota:,}"),
            figure(row.used, f"{row.used:,}"),
            figure(row.lent, f"{row.lent:,}"),
            figure(row.borrowed, f"{row.borrowed:,}"),
            Cell("all" if row.borrow_limit is None else f"{row.borrow_limit:,}", row.borrow_limit),
            figure(row.waiting, f"{row.waiting:,}"),
            Cell(usd(row.month_usd), row.month_usd),
            Cell("" if row.month_limit_usd is None else usd(row.month_limit_usd), row.month_limit_usd),
            figure(row.month_stops_usd, usd(row.month_stops_usd)),
        ]
        for row in rows
    ]
    return sorted_table(headings, cells, "teams", filtered=False)


def _changes(seen: FleetSeen) -> str:
    """What is reserved, drained, down, or about to open and close, by its time."""
    now = seen.now
    rows: list[tuple[float, float | None, str, str]] = []
    for one in seen.reservations:
        who = f"job {one.job}" if one.job else f"team {one.team}"
        what = f"{plural(one.nodes, 'node')} kept for {who}" + (f", {one.why}" if one.why else "")
        rows.append((one.from_unix_s, one.until_unix_s, one.pool, f"{one.name}: {what}"))
    for pool in seen.queue.pools:
        if pool.opens_unix_s is not None and pool.opens_unix_s > now:
            rows.append((pool.opens_unix_s, None, pool.pool, "opens"))
        if pool.closes_unix_s is not None:
            rows.append((pool.closes_unix_s, None, pool.pool, "closes"))
        rows += [(one.at_unix_s, None, pool.pool, change_words(one)) for one in pool.changes]
        drained = [number for number in pool.drained if number not in pool.bad]
        for what, numbers in (
            ("not there", pool.down),
            ("drained: nothing more starts", drained),
            ("found bad: nothing more starts", pool.bad),
        ):
            names = [seen.hosts.get((pool.pool, number), f"node {number}") for number in numbers]
            told_of = names if len(names) <= _MOST_NAMED else [f"nodes {ranges(numbers)}"]
            rows += [(now, None, pool.pool, f"{name} {what}") for name in told_of]
    if not rows:
        return ""
    headings = [("from", True), ("until", True), ("pool", False), ("what changes", False)]
    cells = [
        [
            Cell(told(since, now) if since > now else "now", since),
            Cell("" if until is None else told(until, now), until),
            Cell(pool),
            Cell(what),
        ]
        for since, until, pool, what in sorted(rows, key=lambda row: row[0])
    ]
    return sorted_table(headings, cells, "changes", filtered=False)


def _ended(seen: FleetSeen) -> str:
    if not seen.queue.ended:
        return ""
    headings = [
        ("ended", False), ("how", False), ("team", False), ("when", True), ("steps", True), ("spent", True),
        ("why", False),
    ]  # fmt: skip
    cells = [
        [
            Cell(job.key),
            Cell(job.state.replace("_", " ")),
            Cell(job.team),
            Cell(told(job.ended_unix_s or seen.now, seen.now), job.ended_unix_s),
            Cell(f"{job.step:,}", job.step),
            Cell(usd(job.spent_usd), job.spent_usd),
            Cell(job.because),
        ]
        for job in seen.queue.ended
    ]
    return sorted_table(headings, cells, "jobs that have ended", filtered=False)
