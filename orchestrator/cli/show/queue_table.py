"""The queue as tables: who runs, who waits, on what, and who has which GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, fitting, left_out, table_of
from orchestrator.dispatch.pools_now import NodesChange, PoolNow
from orchestrator.dispatch.queue_answers import QueueNow
from orchestrator.dispatch.queue_view import QueuedJob, When
from orchestrator.dispatch.quotas import NEAR, QuotaRow, TeamMonth
from orchestrator.dispatch.times import told, told_range
from orchestrator.text import UNKNOWN, clean, ending, plural, ranges, usd

_STYLES = {"running": "green", "starting": "cyan", "stopping": "yellow", "held": "dim"}
_LATE = "red"
_LONGEST_NAME, _SHORTEST_NAME = 36, 14
# Below it one column says when a job starts, or ends where it runs.
_NARROW = 76
_MOST_HOSTS = 3
_MOST_CHANGES = 3  # of a pool, in a line
UNLED = "no daemon leads the queue, so nothing starts: 'orchestrator up' starts one"


def print_queue(seen: QueueNow, now: float, console: Console) -> None:
    """Who runs, then who waits; below it what there is to run on, and who ended last."""
    if seen.jobs:
        columns = [one for one in _columns(console.width, now) if any(map(one.show, seen.jobs))]
        shown = fitting(columns, seen.jobs, console.width)
        console.print(table_of(shown, seen.jobs, _style))
        if missing := left_out(columns, shown):
            say(console, missing, "dim")
    else:
        console.print("no job in the queue", highlight=False)
    console.print()
    for pool in seen.pools:
        say(console, pool_line(pool, now), "dim")
    for job in seen.ended:
        line = f"{clean(job.key)} {job.state.replace('_', ' ')} {told(job.ended_unix_s or now, now)}"
        say(console, line + (f": {clean(job.because)}" if job.because else ""), "dim")
    for line in month_lines(seen.months, now):
        say(console, line, "yellow")
    if not seen.is_led:
        say(console, UNLED, "yellow")


def month_lines(months: Sequence[TeamMonth], now: float) -> Iterator[str]:
    """Of the teams that have spent most of their budgets, or all."""
    for one in months:
        team, until = clean(one.team), told(one.until_unix_s, now)
        if one.is_near and not one.limit_usd:
            yield f"{team} has no budget: nothing of it starts"
        elif one.usd >= one.limit_usd:
            yield f"{team} has spent its budget of this month: nothing of it starts before {until}"
        elif one.is_near:
            yield (
                f"{team} has spent {usd(one.usd)} of its {usd(one.limit_usd)} of this month"
                f" ({one.usd / one.limit_usd:.0%}): before that is passed its jobs save and stop, until"
                f" {until}"
            )


def say(console: Console, line: str, style: str = "") -> None:
    """A sentence; a terminal has it broken between words, a program has it whole."""
    console.print(Text(line, style=style), soft_wrap=not console.is_terminal)


def _columns(width: int, now: float) -> list[Column[QueuedJob]]:
    name_width = max(_SHORTEST_NAME, min(_LONGEST_NAME, width // 3))
    wide = [
        Column[QueuedJob]("starts", lambda job: span(job.starts, now), 2, text=True),
        Column[QueuedJob]("ends", lambda job: span(job.ends, now), 2, text=True),
    ]
    narrow = [Column[QueuedJob]("when", lambda job: _when(job, now), 2, text=True)]
    return [
        Column[QueuedJob]("job", lambda job: ending(clean(job.key), name_width), 0, text=True),
        Column[QueuedJob]("state", lambda job: job.state, 0, text=True),
        Column[QueuedJob]("GPUs", lambda job: f"{job.gpus:,}", 1),
        *(narrow if width < _NARROW else wide),
        Column[QueuedJob]("since", lambda job: told(_since(job), now), 9, text=True),
        Column[QueuedJob]("due", lambda job: _due(job, now), 3, text=True),
        Column[QueuedJob]("to come", lambda job: usd(job.to_come_usd), 4),
        Column[QueuedJob]("spent", lambda job: usd(job.spent_usd), 6),
        Column[QueuedJob]("where", _where_or_why, 5, text=True),
        Column[QueuedJob]("step", step_of, 8),
        Column[QueuedJob]("team", lambda job: clean(job.team), 7, text=True),
        Column[QueuedJob]("class", lambda job: clean(job.job_class), 9, text=True),
    ]


def _since(job: QueuedJob) -> float:
    """When it began to run, or to wait."""
    return job.submitted_unix_s if job.started_unix_s is None else job.started_unix_s


def _style(job: QueuedJob) -> str:
    return _LATE if is_late(job) else _STYLES.get(job.state, "")


def is_late(job: QueuedJob) -> bool:
    """Whether it misses its deadline half of the times, or more."""
    if job.deadline_unix_s is None or job.ends is None:
        return False
    return job.ends.at_unix_s is None or job.ends.at_unix_s > job.deadline_unix_s


def _due(job: QueuedJob, now: float) -> str:
    if job.deadline_unix_s is None:
        return ""
    return told(job.deadline_unix_s, now) + (" late" if is_late(job) else "")


def _when(job: QueuedJob, now: float) -> str:
    if job.starts is not None:
        return f"starts {span(job.starts, now)}"
    return f"ends {span(job.ends, now)}" if job.ends is not None else ""


def change_words(change: NodesChange) -> str:
    """`gets 4 nodes`, `loses 2 nodes (2–3), maintenance`."""
    which = f" ({ranges(change.numbers)})" if change.numbers else ""
    why = f", {clean(change.why)}" if change.why else ""
    does = "loses" if change.nodes < 0 else "gets"
    return f"{does} {plural(abs(change.nodes), 'node')}{which}{why}"


def pool_line(pool: PoolNow, now: float) -> str:
    """What there is of a pool, and what of it is in use."""
    line = f"{clean(pool.pool)}: {pool.used:,} of {plural(pool.gpus, 'GPU')} in use on"
    line += f" {plural(pool.nodes, 'node')}"
    if pool.opens_unix_s is not None and pool.opens_unix_s > now:
        line += f"; opens {told(pool.opens_unix_s, now)}"
    if pool.closes_unix_s is not None:
        line += f"; {'closed' if pool.closes_unix_s <= now else 'closes'} {told(pool.closes_unix_s, now)}"
    for change in pool.changes[:_MOST_CHANGES]:
        line += f"; {told(change.at_unix_s, now)} it {change_words(change)}"
    if (more := len(pool.changes) - _MOST_CHANGES) > 0:
        line += f"; and {plural(more, 'change')} more"
    drained = [number for number in pool.drained if number not in pool.bad]
    for what, numbers in (("not there", pool.down), ("drained", drained), ("found bad", pool.bad)):
        line += f"; {what}: node{'s' if len(numbers) > 1 else ''} {ranges(numbers)}" if numbers else ""
    return line + (" ('orchestrator nodes' says why)" if pool.bad else "")


def where(job: QueuedJob) -> str:
    """Its nodes, the first of many."""
    if not job.hosts:
        return ""
    more = len(job.hosts) - _MOST_HOSTS
    return ",".join(clean(host) for host in job.hosts[:_MOST_HOSTS]) + (
        f" and {more} more" if more > 0 else ""
    )


def _where_or_why(job: QueuedJob) -> str:
    """Of one that waits for whom, or for what."""
    if job.why is None:
        return where(job)
    if job.why.behind:
        more = len(job.why.behind) - 1
        return f"after {clean(job.why.behind[0])}" + (f" and {more} more" if more else "")
    return job.why.cause.replace("_", " ")


def step_of(job: QueuedJob) -> str:
    """`12/100`, where the number of steps is known."""
    return f"{job.step:,}/{job.steps:,}" if job.steps else f"{job.step:,}" if job.step else ""


def span(when: When | None, now: float) -> str:
    """`18:00` where the range is a minute, else `17:50–18:20`."""
    if when is None:
        return ""
    if when.at_unix_s is None:
        return UNKNOWN
    if when.high_unix_s is None:
        return f"{told(when.low_unix_s, now)} or later"
    return told_range(when.low_unix_s, when.high_unix_s, now)


def print_quotas(rows: Sequence[QuotaRow], console: Console) -> None:
    """A line for each team and pool."""
    if not rows:
        console.print("no team has a quota, GPUs or jobs that wait", highlight=False)
        return
    columns = [
        Column[QuotaRow]("team", lambda row: ending(clean(row.team), _LONGEST_NAME), 0, text=True),
        Column[QuotaRow]("pool", lambda row: clean(row.pool), 0, text=True),
        Column[QuotaRow]("quota", lambda row: f"{row.quota:,}", 1),
        Column[QuotaRow]("has", lambda row: f"{row.used:,}", 1),
        Column[QuotaRow]("lends", lambda row: _or_nothing(row.lent), 2),
        Column[QuotaRow]("borrows", _borrows, 2),
        Column[QuotaRow]("waits for", lambda row: _or_nothing(row.waiting), 3),
        Column[QuotaRow]("this month", _month, 4),
        Column[QuotaRow]("for stops", lambda row: usd(row.month_stops_usd) if row.month_stops_usd else "", 5),
    ]
    columns = [one for one in columns if any(map(one.show, rows))]
    shown = fitting(columns, rows, console.width)
    console.print(table_of(shown, rows, lambda row: _LATE if _is_spent(row) else ""))
    for line in _notes(columns, shown, rows):
        say(console, line, "dim")


def _notes(
    columns: Sequence[Column[QuotaRow]], shown: Sequence[Column[QuotaRow]], rows: Sequence[QuotaRow]
) -> Iterator[str]:
    if missing := left_out(columns, shown):
        yield missing
    for row in {row.team: row for row in rows}.values():
        if row.month_limit_usd == 0.0:
            yield f"{clean(row.team)} has no budget: nothing of it starts."
        elif _is_spent(row):
            yield (
                f"{clean(row.team)} has spent its budget of this month: nothing of it starts before the next"
                " one."
            )
        elif row.month_limit_usd is not None and row.month_usd >= NEAR * row.month_limit_usd:
            yield (
                f"{clean(row.team)} has spent {row.month_usd / row.month_limit_usd:.0%} of its budget of this"
                " month: before that is passed its jobs save and stop."
            )


def _or_nothing(gpus: int) -> str:
    return f"{gpus:,}" if gpus else ""


def _is_spent(row: QuotaRow) -> bool:
    return row.month_limit_usd is not None and row.month_usd >= row.month_limit_usd


def _borrows(row: QuotaRow) -> str:
    if row.borrow_limit is None:
        return _or_nothing(row.borrowed)
    return f"{row.borrowed:,} of {row.borrow_limit:,}"


def _month(row: QuotaRow) -> str:
    return usd(row.month_usd) + (f" of {usd(row.month_limit_usd)}" if row.month_limit_usd is not None else "")
