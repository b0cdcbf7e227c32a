"""The queue as a table, and each decision in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from orchestrator.cli.show.tables import Column, fitting, table_of
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.queue_view import Outlook, QueuedJob, When, WhyWaiting
from orchestrator.dispatch.quotas import QuotaRow
from orchestrator.dispatch.times import told
from orchestrator.fleet.jobs import JobState
from orchestrator.fleet.pools import NodeState
from orchestrator.fleet.world import World
from orchestrator.text import UNKNOWN, clean, duration, ending, hours_in_words, plural, ranges, usd

_STYLES = {"running": "green", "starting": "cyan", "stopping": "yellow", "held": "dim"}
_NAME_WIDTH = 36
_MOST_HOSTS = 3


def print_queue(
    jobs: Sequence[QueuedJob], world: World, leads: bool, ended: Sequence[Entry], now: float, console: Console
) -> None:
    """Who runs, then who waits; below it what there is to run on."""
    if jobs:
        columns = [
            Column[QueuedJob]("job", lambda job: ending(clean(job.key), _NAME_WIDTH), 0, text=True),
            Column[QueuedJob]("state", lambda job: job.state, 0, text=True),
            Column[QueuedJob]("GPUs", lambda job: str(job.gpus), 1),
            Column[QueuedJob]("where", _where, 4, text=True),
            Column[QueuedJob]("step", _step, 5),
            Column[QueuedJob]("starts", lambda job: _span(job.starts, now), 2, text=True),
            Column[QueuedJob]("ends", lambda job: _span(job.ends, now), 2, text=True),
            Column[QueuedJob]("spent", lambda job: usd(job.spent_usd), 6),
            Column[QueuedJob]("to come", lambda job: usd(job.to_come_usd), 7),
            Column[QueuedJob]("team", lambda job: clean(job.team), 3, text=True),
            Column[QueuedJob]("class", lambda job: clean(job.job_class), 8, text=True),
            Column[QueuedJob]("waits for", _why_short, 3, text=True),
        ]
        shown = fitting(columns, jobs, console.width)
        console.print(table_of(shown, jobs, lambda job: _STYLES.get(job.state, "")))
    else:
        console.print("no job in the queue", highlight=False)
    for line in _pool_lines(world):
        console.print(Text(line, style="dim"), soft_wrap=True)
    for entry in ended:
        line = f"{clean(entry.key)} {entry.job.state.value} {told(entry.ended_at or now, now)}"
        why = f": {clean(entry.because)}" if entry.because else ""
        console.print(Text(line + why, style="dim"), soft_wrap=True)
    if not leads:
        console.print(
            "no daemon leads the queue, so nothing starts: 'orchestrator up' starts one", style="yellow",
            soft_wrap=True, highlight=False,
        )  # fmt: skip


def _pool_lines(world: World) -> Iterator[str]:
    for pool in world.pools:
        used = sum(
            sum(job.placement.gpus)
            for job in world.jobs
            if job.placement is not None and job.placement.pool == pool.name
            and job.state in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)
        )  # fmt: skip
        down = [number for number, state in pool.not_up if state is NodeState.DOWN]
        drained = [number for number, state in pool.not_up if state is NodeState.DRAINING]
        line = f"{pool.name}: {used} of {pool.gpus} in use on {plural(pool.nodes, 'node')}"
        line += f"; not there: {ranges(down)}" if down else ""
        yield line + (f"; drained: {ranges(drained)}" if drained else "")


def _where(job: QueuedJob) -> str:
    if not job.hosts:
        return ""
    more = len(job.hosts) - _MOST_HOSTS
    return ",".join(clean(host) for host in job.hosts[:_MOST_HOSTS]) + (
        f" and {more} more" if more > 0 else ""
    )


def _step(job: QueuedJob) -> str:
    return f"{job.step:,}/{job.steps:,}" if job.steps else f"{job.step:,}" if job.step else ""


def _span(when: When | None, now: float) -> str:
    """`18:00` where the range is a minute, else `17:50–18:20`."""
    if when is None:
        return ""
    if when.at_unix_s is None:
        return UNKNOWN
    if when.high_unix_s is None:
        return f"{told(when.low_unix_s, now)} or later"
    low, high = told(when.low_unix_s, now), told(when.high_unix_s, now)
    return low if low == high else f"{low}\u2013{high}"


def _why_short(job: QueuedJob) -> str:
    if job.why is None:
        return ""
    if job.why.behind:
        return ", ".join(clean(key) for key in job.why.behind)
    return job.why.cause.replace("_", " ")


def print_why(job: QueuedJob | None, entry: Entry | None, now: float, console: Console) -> None:
    """All that is known of one job, in sentences."""
    if job is None:
        assert entry is not None, "one of both is there"
        why = f": {clean(entry.because)}" if entry.because else ""
        console.print(f"{clean(entry.key)} {entry.job.state.value} {told(entry.ended_at or now, now)}{why}")
        return
    console.print(" ".join(why_sentences(job, now)))


def why_sentences(job: QueuedJob, now: float) -> Iterator[str]:
    """What it does, why, when that changes, and at what price it could be otherwise."""
    key, gpus = clean(job.key), plural(job.gpus, "GPU")
    if job.why is None:
        on = f" on {_where(job)}" if job.hosts else ""
        since = f" since {told(job.started_unix_s, now)}" if job.started_unix_s is not None else ""
        yield f"{key} is {job.state} with {gpus}{on}{since}."
        if job.state == JobState.STOPPING and job.stops_for:
            yield f"It saves and leaves for {_named(job.stops_for)}."
    else:
        waited = duration(max(now - job.submitted_unix_s, 0.0))
        yield f"{key} waits for {gpus}, submitted {waited} ago: {_cause(job.why, job, now)}."
    if job.worth is not None and job.why is not None and job.worth > 0:
        per_hour = usd(job.usd_per_hour)
        yield f"It is worth {usd(job.worth)} of delay avoided by a GPU-hour, at {per_hour} an hour."
    if job.starts is not None:
        yield f"It starts {_span(job.starts, now)}."
    if job.ends is not None:
        yield f"It ends {_span(job.ends, now)}, for {usd(job.to_come_usd)} more."
    if job.deadline_unix_s is not None:
        yield f"Its deadline is {told(job.deadline_unix_s, now)}."
    if job.why is not None and job.why.cause in ("ahead", "price", "quota"):
        yield f"A class that is worth more ('move {key} class=NAME') would change that."


def _cause(why: WhyWaiting, job: QueuedJob, now: float) -> str:
    behind = _named(why.behind)
    until = f" until {told(why.until_unix_s, now)}" if why.until_unix_s is not None else ""
    short = f" ({plural(why.gpus_missing, 'GPU')} missing)" if why.gpus_missing else ""
    match why.cause:
        case "ahead":
            have = "has" if len(why.behind) == 1 else "have"
            return f"{behind or 'others'}, worth more, {have} the GPUs{short}"
        case "price":
            return (
                f"to stop {behind} for it would cost {usd(why.price_usd)} and gain {usd(why.gain_usd)}{short}"
            )
        case "pinned":
            return f"{behind} must not be stopped yet{until}{short}"
        case "fragmented":
            return "enough GPUs are free, but not on so few nodes as its gang needs"
        case "quota":
            return "its team has borrowed as much as it may"
        case "reserved":
            return f"the nodes are reserved{until}"
        case "budget":
            return "its team has spent its budget of this month"
        case "depends":
            return f"it comes after {behind}"
        case "too_large":
            return "no pool that it may run in is large enough"
        case "no_nodes":
            return "no node of its pools is there"
    return clean(job.because) or "it is held"


def _named(keys: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(map(clean, keys[:-1])), *map(clean, keys[-1:]))))


def submitted_line(entry: Entry, is_new: bool, leads: bool, now: float) -> str:
    """What has become of a submission."""
    if not is_new:
        return (
            f"{clean(entry.key)} is in the queue already: {entry.job.state.value}, submitted"
            f" {told(entry.job.submitted_at, now)}"
        )
    later = "" if leads else "; no daemon leads: it starts once 'orchestrator up' has started one"
    return f"{clean(entry.key)} is in the queue{later}"


def outlook_lines(outlook: Outlook, now: float) -> Iterator[str]:
    """When it starts and ends, what it costs, and whose work is stopped for it."""
    takes = f", {hours_in_words(outlook.hours)}" if outlook.hours is not None else ""
    costs = f", {usd(outlook.usd)}" if outlook.usd is not None else ""
    yield f"{plural(outlook.gpus, 'GPU')} of {' or '.join(outlook.pools)}{takes}{costs}"
    if outlook.starts is None:
        yield "nothing that is to come lets it start"
    else:
        at = "now" if outlook.why is None else _span(outlook.starts, now)
        yield f"starts {at}, ends {_span(outlook.ends, now) or UNKNOWN}"
    if outlook.why is not None and outlook.why.behind:
        yield f"behind {_named(outlook.why.behind)}"
    for each in outlook.displaces:
        does = "moves" if each.moves else "stops"
        yield f"{does} {clean(each.key)}: costs {usd(each.price_usd)}, gains {usd(each.gain_usd)} of delay"


def print_quotas(rows: Sequence[QuotaRow], console: Console) -> None:
    """A line for each team and pool."""
    if not rows:
        console.print("no team has a quota, GPUs or jobs that wait", highlight=False)
        return
    columns = [
        Column[QuotaRow]("team", lambda row: clean(row.team), 0, text=True),
        Column[QuotaRow]("pool", lambda row: clean(row.pool), 0, text=True),
        Column[QuotaRow]("quota", lambda row: str(row.quota), 1),
        Column[QuotaRow]("has", lambda row: str(row.used), 1),
        Column[QuotaRow]("lends", lambda row: str(row.lent) if row.lent else "", 2),
        Column[QuotaRow]("borrows", _borrows, 2),
        Column[QuotaRow]("waits for", lambda row: str(row.waiting) if row.waiting else "", 3),
        Column[QuotaRow]("this month", _month, 4),
        Column[QuotaRow]("for stops", lambda row: usd(row.month_stops_usd) if row.month_stops_usd else "", 5),
    ]
    console.print(table_of(fitting(columns, rows, console.width), rows, lambda _row: ""))


def _borrows(row: QuotaRow) -> str:
    if row.borrow_limit is None:
        return str(row.borrowed) if row.borrowed else ""
    return f"{row.borrowed} of {row.borrow_limit}"


def _month(row: QuotaRow) -> str:
    return usd(row.month_usd) + (f" of {usd(row.month_limit_usd)}" if row.month_limit_usd is not None else "")
