"""What a key means that is submitted again: the same job, or another one that has to have another key.

Whoever was cut off sends a job again, and has to find it once. So the same key with the same words is the
same job. What differs is refused, and so is what has ended without finishing, unless somebody says that it is
to go on: neither is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Typed
from orchestrator.dispatch.times import told
from orchestrator.errors import ConfigError
from orchestrator.fleet.jobs import JobSpec, JobState
from orchestrator.text import clean
from orchestrator.text import typed as as_typed

_SAME_S, _NONE = 1.0, "none"
_MOVED = ("class", "usd_per_hour", "deadline", "pool")  # what `move` changes


def check_same(entry: Entry, spec: JobSpec, typed: Typed, cwd: str, again: bool, now: float) -> bool:
    """Whether a job of this key is to go on anew; false where it is there, or has finished.

    Raises :class:`ConfigError` where another is meant, or one that has ended and is not to go on.
    """
    key, there = entry.key, entry.job.spec
    if _identity(there) != _identity(spec):
        raise ConfigError(f"key={key}: {whose(there, entry, now)}; choose another key")
    over = entry.is_over and entry.job.state is not JobState.FINISHED
    if over and again:
        return True
    if over:
        raise ConfigError(
            f"key={key}: {_how(entry.job.state)} {told(entry.ended_at or now, now)}{_because(entry)};"
            " 'submit --again' with the same words goes on with its run, from its newest checkpoint, or"
            " choose another key"
        )
    first = list(_differing(entry.submitted or there, entry.typed, spec, typed))
    moved = list(_differing(there, None, spec, typed)) if entry.submitted is not None else first
    if first and moved:
        name, is_said, said = moved[0]
        can_move = name in _MOVED and said != _NONE and not entry.is_over
        remedy = f"'move {key} {name}={said}' changes it" if can_move else "say the same"
        raise ConfigError(
            f"key={key}: is {entry.job.state.value} with {name}={is_said}, and this says {name}={said};"
            f" {remedy}, or choose another key"
        )
    if entry.cwd != cwd:
        raise ConfigError(
            f"key={key}: was submitted in {entry.cwd}, from where paths among its words are meant, and this"
            f" is {cwd}; submit it there, or choose another key"
        )
    return False


def whose(other: JobSpec, entry: Entry | None, now: float) -> str:
    """Whose key it is."""
    words = " ".join(other.overrides)
    if entry is None:
        return f"is another job's of the same list ({words})"
    job = entry.job
    return f"is another job's already ({words}, submitted {told(job.submitted_at, now)}, {job.state.value})"


def is_same(one: JobSpec, other: JobSpec) -> bool:
    """Whether two of one list are the same."""
    return _identity(one) == _identity(other)


def _identity(spec: JobSpec) -> tuple[object, ...]:
    return spec.overrides, spec.team, spec.owner


def _how(state: JobState) -> str:
    match state:
        case JobState.OVER_BUDGET:
            return "has stopped for its budget"
        case JobState.CANCELLED:
            return "was cancelled"
    return f"has {state.value}"


def _because(entry: Entry) -> str:
    return f" ({clean(entry.because)})" if entry.because else ""


def _differing(
    there: JobSpec, was: Typed | None, spec: JobSpec, typed: Typed
) -> Iterator[tuple[str, str, str]]:
    """What differs, as it is there and as it is said. Typed alike it is the same, though it may mean
    something else by now: in an hour `3h` is another time, and a class may have another price."""
    known = was is not None
    was = was or Typed()
    if there.job_class != spec.job_class and not (known and was.job_class == typed.job_class):
        yield "class", there.job_class, spec.job_class
    elif _price(there, was, known) != _price(spec, typed, known) and there.usd_per_hour != spec.usd_per_hour:
        yield "usd_per_hour", as_typed(there.usd_per_hour), as_typed(spec.usd_per_hour)
    due, said_due = there.deadline_at, spec.deadline_at
    if not (known and was.deadline == typed.deadline) and not _same_time(due, said_due):
        yield "deadline", _time(due), _time(said_due)
    pools, said = {plan.pool for plan in there.plans}, {plan.pool for plan in spec.plans}
    if pools != said and not (known and set(was.pools) == set(typed.pools)):
        yield "pool", ",".join(sorted(pools)), ",".join(sorted(said))
    if there.preemptible != spec.preemptible:
        yield "preemptible", str(there.preemptible).lower(), str(spec.preemptible).lower()
    if there.penalty_usd != spec.penalty_usd:
        yield "penalty_usd", as_typed(there.penalty_usd), as_typed(spec.penalty_usd)
    after, said_after = there.depends_on, spec.depends_on
    if set(after) != set(said_after) and not (known and set(was.after) == set(typed.after)):
        yield "after", ",".join(after) or _NONE, ",".join(said_after) or _NONE


def _price(spec: JobSpec, typed: Typed, known: bool) -> float | None:
    """What was said of it; that of a class is the class's."""
    if not known:
        return spec.usd_per_hour
    return None if typed.usd_per_hour is None else float(typed.usd_per_hour)


def _same_time(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) < _SAME_S


def _time(at: float | None) -> str:
    return _NONE if at is None else f"'{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}'"
