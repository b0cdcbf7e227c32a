"""What somebody says of a job beside its words, as programs say it; people type the same (see `cli`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict, Unpack

from orchestrator.dispatch.submitting import Asked

Time = str | datetime  # as people type it, or a program's own


class MoveWishes(TypedDict, total=False):
    """What may be changed of a job in the queue."""

    job_class: str  # what an hour of its delay costs
    usd_per_hour: float  # the same for this job alone
    deadline: Time  # when it has to be done
    pools: Sequence[str]  # that it may run in


class JobWishes(MoveWishes, total=False):
    """What may be said of a job that is submitted."""

    team: str  # that it counts for; needed where there are several
    key: str  # its own, and its run's name; left out it is a new one
    after: Sequence[str]  # keys of jobs, or of groups, that have to finish first
    penalty_usd: float  # what is lost once the deadline is missed
    preemptible: bool  # false: it is never stopped for others
    again: bool  # one of this key that has ended and not finished goes on
    forecast: bool  # false: it is not asked when it starts and ends, nor whether it meets its deadline


def asked_of(**wishes: Unpack[JobWishes]) -> Asked:
    """As it would be typed."""
    deadline, preemptible = wishes.get("deadline"), wishes.get("preemptible")
    usd_per_hour, penalty_usd = wishes.get("usd_per_hour"), wishes.get("penalty_usd")
    return Asked(
        team=wishes.get("team"),
        job_class=wishes.get("job_class"),
        deadline=deadline.isoformat() if isinstance(deadline, datetime) else deadline,
        key=wishes.get("key"),
        pools=_names(wishes.get("pools", ())),
        after=_names(wishes.get("after", ())),
        usd_per_hour=None if usd_per_hour is None else str(usd_per_hour),
        penalty_usd=None if penalty_usd is None else str(penalty_usd),
        preemptible=None if preemptible is None else str(preemptible).lower(),
        again=wishes.get("again", False),
        forecast=wishes.get("forecast", True),
    )


def words_of(said: Mapping[str, object]) -> dict[str, str]:
    """What was said, as it would be typed."""
    return {
        key: value.isoformat() if isinstance(value, datetime) else str(value)
        for key, value in said.items()
        if value is not None
    }


def _names(given: Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
