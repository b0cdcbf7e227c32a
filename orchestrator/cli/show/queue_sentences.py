"""What is decided of a job of the queue, in sentences with names and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.cli.show.queue_table import span, where
from orchestrator.dispatch.queue_answers import Heard, Submission
from orchestrator.dispatch.queue_view import Outlook, PoolPlanned, QueuedJob, WhyWaiting
from orchestrator.dispatch.reserving import NodesReserved
from orchestrator.dispatch.times import told
from orchestrator.fleet.jobs import ENDED, JobState
from orchestrator.text import UNKNOWN, clean, duration, hours_in_words, plural, typed, usd


def why_sentences(job: QueuedJob, now: float) -> Iterator[str]:
    """What it does, why, when that changes, and at what price it could be otherwise."""
    key, gpus = clean(job.key), plural(job.gpus, "GPU")
    if job.state in ENDED:
        why = f": {clean(job.because)}" if job.because else ""
        ended = told(job.ended_unix_s or now, now)
        yield f"{key} {job.state.replace('_', ' ')} {ended}, for {usd(job.spent_usd)}{why}."
        return
    if job.why is None and job.state == JobState.QUEUED:
        yield f"{key} waits for {gpus} that it can have: it starts with the next look of a daemon."
    elif job.why is None:
        on = f" on {where(job)}" if job.hosts else ""
        since = f" since {told(job.started_unix_s, now)}" if job.started_unix_s is not None else ""
        yield f"{key} is {job.state} with {gpus}{on}{since}."
        if job.state == JobState.STOPPING and (job.stops_for or job.because):
            yield f"It saves and leaves for {named(job.stops_for) or clean(job.because)}."
    else:
        waited = duration(max(now - job.submitted_unix_s, 0.0))
        yield f"{key} waits for {gpus}, submitted {waited} ago: {cause(job.why, job.because, now)}."
    if job.worth is not None and job.why is not None and job.worth > 0:
        per_hour = usd(job.usd_per_hour)
        yield f"It is worth {usd(job.worth)} of delay avoided by a GPU-hour, at {per_hour} an hour."
        worth = list(zip(job.why.behind, job.why.behind_usd_per_gpu_hour, strict=False))
        if ahead := [f"{clean(key)} {usd(each)}" for key, each in worth if each > 0]:
            yield f"To be beaten are, by a GPU-hour: {', '.join(ahead)}."
    if job.starts is not None:
        yield f"It starts {span(job.starts, now)}."
    if job.ends is not None:
        cost = "what it costs nobody knows" if job.to_come_usd is None else f"for {usd(job.to_come_usd)} more"
        yield f"It ends {span(job.ends, now)}, {cost}."
    if job.nodes_leave_unix_s is not None:
        yield f"Nodes of it leave {told(job.nodes_leave_unix_s, now)}: it is asked to save and leave then."
    if job.deadline_unix_s is not None:
        yield f"{_deadline(job, job.deadline_unix_s, now)}."
    if job.why is not None and job.why.cause in ("ahead", "price", "pinned", "fragmented"):
        yield from _raised(key, job.why)


def _raised(key: str, why: WhyWaiting) -> Iterator[str]:
    """What would have it start now."""
    price, job_class = why.starts_at_usd_per_hour, why.starts_in_class
    if job_class is not None:
        yield f"In class {clean(job_class)} it would start now ('move {key} class={clean(job_class)}')."
    if price is not None:
        yield f"From {usd(price)} an hour on it would start now ('move {key} usd_per_hour={typed(price)}')."
    if price is None and job_class is None:
        yield "No class and no price would start it now."


def _deadline(job: QueuedJob, due: float, now: float) -> str:
    said = f"Its deadline is {told(due, now)}"
    at = None if job.ends is None else job.ends.at_unix_s
    if at is None:
        return f"{said}, which it does not meet as things are"
    if at > due:
        return f"{said}, which it misses by {duration(at - due)}, half of the times by more"
    return said


def cause(why: WhyWaiting, because: str, now: float) -> str:
    """Why a job waits; ``because`` is what somebody said who holds it."""
    behind = named(why.behind)
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
            at = f" {told(why.until_unix_s, now)}" if why.until_unix_s is not None else ""
            return f"it cannot be stopped, and would still run when its nodes are reserved or leave{at}"
        case "budget":
            return f"its team has spent its budget of this month, or as good as{until}"
        case "claimed":
            it = "runs and is" if len(why.behind) == 1 else "run and are"
            return f"what is left of its team's month is for {behind}, which {it} worth more{short}"
        case "depends":
            return f"it comes after {behind}"
        case "depends_lost":
            it = "which has" if len(why.behind) == 1 else "which have"
            remedy = "cancel it, or have that go on with 'submit --again'"
            return f"it comes after {behind}, {it} ended and not finished; {remedy}"
        case "too_large":
            opens = f"; one is from {told(why.until_unix_s, now)} on" if why.until_unix_s is not None else ""
            return f"no pool that it may run in is open and large enough{opens}"
        case "no_nodes":
            return "each node of its pools is gone or drained"
    return clean(because) or "it is held"


def named(keys: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(map(clean, keys[:-1])), *map(clean, keys[-1:]))))


def submitted_line(done: Submission, is_led: bool, now: float) -> str:
    """What has become of a submission."""
    if not done.is_new and done.state == JobState.FINISHED:
        return (
            f"{clean(done.key)} has finished already, submitted {told(done.submitted_unix_s, now)}; with"
            " another key= it runs once more"
        )
    if not done.is_new:
        return (
            f"{clean(done.key)} is in the queue already: {done.state}, submitted"
            f" {told(done.submitted_unix_s, now)}"
        )
    return f"{clean(done.key)} is in the queue{'' if is_led else UNLED_YET}"


UNLED_YET = "; no daemon leads: it starts once 'orchestrator up' has started one"


def outlook_lines(outlook: Outlook, now: float) -> Iterator[str]:
    """When it starts and ends, what it costs, and whose work is stopped for it."""
    first, *others = outlook.plans
    yield _plan(first)
    for plan in others:
        yield f"or {_plan(plan)}"
    yield from map(clean, outlook.remarks)
    if outlook.starts is None:
        why = "" if outlook.why is None else f": {cause(outlook.why, '', now)}"
        yield f"nothing that is to come lets it start{why}"
        return
    at = "now" if outlook.why is None else span(outlook.starts, now)
    yield f"starts {at}, ends {span(outlook.ends, now) or UNKNOWN}{_due(outlook, now)}"
    if outlook.why is not None:
        yield f"waits: {cause(outlook.why, '', now)}"
    for each in outlook.displaces:
        does = "moves" if each.moves else "stops"
        yield f"{does} {clean(each.key)}: costs {usd(each.price_usd)}, gains {usd(each.gain_usd)} of delay"


def _plan(plan: PoolPlanned) -> str:
    takes = f", {_takes(plan.hours)}" if plan.hours is not None else ", nobody knows for how long"
    costs = f", {usd(plan.usd)}" if plan.usd is not None else ""
    late = ", too late for its deadline" if plan.meets_deadline is False else ""
    return f"{plural(plan.gpus, 'GPU')} of {clean(plan.pool)}{takes}{costs}{late}"


def _takes(hours: float) -> str:
    return hours_in_words(hours) if hours >= 1.0 else duration(max(hours * 3600.0, 1.0))


def _due(outlook: Outlook, now: float) -> str:
    """Of one with a deadline whether it is met."""
    if outlook.deadline_unix_s is None:
        return ""
    due, ends = told(outlook.deadline_unix_s, now), outlook.ends
    if ends is None or ends.at_unix_s is None or ends.at_unix_s > outlook.deadline_unix_s:
        return f", mostly after its deadline ({due})"
    sure = ends.high_unix_s is not None and ends.high_unix_s <= outlook.deadline_unix_s
    return f", {'' if sure else 'mostly '}before its deadline ({due})"


def heard_line(heard: Heard, if_running: str, if_waiting: str, is_led: bool) -> str:
    """What becomes of a job that was asked something."""
    note = "" if not heard.leaves_first or is_led else "; no daemon leads, so nobody asks it before 'up'"
    return f"{clean(heard.key)}: {if_running if heard.leaves_first else if_waiting}{note}"


def reserved_line(one: NodesReserved, now: float) -> str:
    """Nodes that are kept, for whom and when."""
    who = f"job {clean(one.job)}" if one.job else f"team {clean(one.team)}"
    span = f"{told(one.from_unix_s, now)} to {told(one.until_unix_s, now)}"
    why = f" ({clean(one.why)})" if one.why else ""
    return f"{clean(one.name)}: {plural(one.nodes, 'node')} of {clean(one.pool)} for {who}, {span}{why}"
