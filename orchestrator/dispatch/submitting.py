"""How a job gets into the queue: planned for each pool that it may run in, and refused before that where it
cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.dispatch.books import Books, month_of
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, Submitted
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.pool_plans import Compose, plans_in
from orchestrator.dispatch.queue_view import Outlook
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.times import time_of, told
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.jobs import ENDED, JobSpec
from orchestrator.ledger.run_directory import check_run_name, new_run_name
from orchestrator.papers import short
from orchestrator.text import duration, usd
from orchestrator.users import user_name

_MINUTE_S = 60.0


@dataclass(frozen=True)
class Asked:
    """What somebody types beside the words of the job itself; None is not said."""

    team: str | None = None
    job_class: str | None = None
    deadline: str | None = None
    key: str | None = None
    pools: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    usd_per_hour: str | None = None
    penalty_usd: str | None = None
    preemptible: str | None = None
    group: str = ""  # of the sweep that it is a point of


def spec_of(
    words: tuple[str, ...], asked: Asked, fleet: FleetFile, books: Books, compose: Compose, now: float
) -> JobSpec:
    """The job that is asked for. Raises :class:`ConfigError` for what cannot be."""
    team, job_class = fleet.team(asked.team), fleet.job_class(asked.job_class)
    deadline_at = None if asked.deadline is None else _deadline(asked.deadline, now)
    _check_after(asked, books)
    _check_budget(team, fleet, books, now)
    named = tuple(fleet.pool(name) for name in asked.pools) or fleet.pools
    planned = plans_in(words, named, bool(asked.pools), compose)
    config = planned[0].config
    usd = _amount("usd_per_hour", asked.usd_per_hour)
    key = asked.key or new_run_name(config.job.name)
    check_key(key)
    return JobSpec(
        key,
        team,
        tuple(one.kept for one in planned),
        owner=config.owner or user_name(),
        script=Path(planned[0].plan.script).name,
        overrides=words,
        job_class=job_class.name,
        usd_per_hour=job_class.usd_per_hour if usd is None else usd,
        rank=job_class.rank,
        deadline_at=deadline_at,
        penalty_usd=_amount("penalty_usd", asked.penalty_usd) or 0.0,
        budget_usd=config.budget.usd,
        preemptible=_truth("preemptible", asked.preemptible, default=True),
        depends_on=asked.after,
        group=asked.group,
    )


def _deadline(typed: str, now: float) -> float:
    at = time_of("deadline", typed, now)
    if at <= now:
        raise ConfigError(
            f"deadline={short(typed)}: is past (it is {told(now, now)} now); give a later one, or leave it"
            " out"
        )
    return at


def check_key(key: str) -> None:
    """A key is the name of the job's run too."""
    try:
        check_run_name(key)
    except ConfigError as error:
        raise ConfigError(str(error).replace("run_name=", "key=", 1)) from None


def submit(
    store: Store, specs: Sequence[JobSpec], run_root: Path, cwd: str, by: str, now: float
) -> list[tuple[Entry, bool]]:
    """Write them down, all or none; returns each as it is in the books, and whether it is new. The same key
    with the same words is the same job, whoever sends it again after he was cut off. They wait for the disk
    once.

    Raises :class:`ConfigError` for a key that is another job's.
    """
    there: dict[str, Entry] = {}

    def choose(books: Books) -> list[Fact]:
        new: dict[str, JobSpec] = {}
        for spec in specs:
            entry = books.jobs.get(spec.key) or store.entry(spec.key)
            other = entry.job.spec if entry is not None else new.get(spec.key)
            if other is not None:
                if not _same(other, spec):
                    raise ConfigError(f"key={spec.key}: {_whose(other, entry, now)}; choose another key")
                if entry is not None:
                    there[spec.key] = entry
                continue
            if (run_root / spec.key / "journal.jsonl").exists():
                raise ConfigError(
                    f"key={spec.key}: {run_root / spec.key} holds a run already that is not of the queue;"
                    " choose another key"
                )
            new[spec.key] = spec
        return [Submitted(spec, spec.key, cwd) for spec in new.values()]

    books = store.write(by, now, choose)
    return [(there.get(spec.key) or books.jobs[spec.key], spec.key not in there) for spec in specs]


def _whose(other: JobSpec, entry: Entry | None, now: float) -> str:
    words = " ".join(other.overrides)
    if entry is None:
        return f"is another job's of the same list ({words})"
    job = entry.job
    return f"is another job's already ({words}, submitted {told(job.submitted_at, now)}, {job.state.value})"


def _same(one: JobSpec, other: JobSpec) -> bool:
    """The same job, whatever has come of its plan and of what was moved since."""
    return (one.overrides, one.team, one.owner, one.depends_on) == (
        other.overrides,
        other.team,
        other.owner,
        other.depends_on,
    )


def _check_after(asked: Asked, books: Books) -> None:
    """What a job waits for has to be in the queue, or to have finished: so no circle can come to be."""
    known = {*books.jobs, *books.finished}
    for key in asked.after:
        if key == asked.key:
            raise ConfigError(f"after={key}: a job cannot wait for itself; leave it out")
        if key not in known:
            raise ConfigError(
                f"after={short(key)}: there is no such job in the queue, nor one that has finished"
                f"{near_miss(key, known)}; submit that one first"
            )


def _check_budget(team: str, fleet: FleetFile, books: Books, now: float) -> None:
    limit = next((each.usd_per_month for each in fleet.teams if each.name == team), None)
    month = books.months.get((team, month_of(now)))
    if limit is not None and month is not None and month.usd >= limit:
        raise ConfigError(
            f"team={team}: has spent its budget of {month.month} ({usd(month.usd)} of {usd(limit)}); raise"
            f" teams.{team}.usd_per_month in {fleet.path}, or wait for the next month"
        )


def _amount(key: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise ConfigError(f"{key}={short(text)}: has to be a number of dollars above 0")
    return value


def _truth(key: str, text: str | None, default: bool) -> bool:
    if text not in (None, "true", "false"):
        raise ConfigError(f"{key}={short(text)}: has to be true or false")
    return default if text is None else text == "true"


def moved_spec(entry: Entry, asked: Asked, fleet: FleetFile, compose: Compose, now: float) -> JobSpec:
    """The job with another class, deadline, cost of delay or pools. Raises :class:`ConfigError`."""
    spec = entry.job.spec
    if entry.job.state in ENDED:
        raise ConfigError(f"{entry.key}: has ended ({entry.job.state.value}); submit it anew")
    if asked.job_class is not None:
        job_class = fleet.job_class(asked.job_class)
        spec = replace(
            spec, job_class=job_class.name, usd_per_hour=job_class.usd_per_hour, rank=job_class.rank
        )
    if (usd := _amount("usd_per_hour", asked.usd_per_hour)) is not None:
        spec = replace(spec, usd_per_hour=usd)
    if asked.deadline is not None:
        spec = replace(spec, deadline_at=_deadline(asked.deadline, now))
    if asked.pools:
        pools = tuple(fleet.pool(name) for name in asked.pools)
        here = entry.job.placement
        if here is not None and here.pool not in asked.pools:
            raise ConfigError(
                f"pool={','.join(asked.pools)}: {entry.key} is on {here.pool} now; hold it first"
                f" ('hold {entry.key}'), move it, and let it go with 'hold {entry.key} --off'"
            )
        planned = plans_in(spec.overrides, pools, True, compose)
        spec = replace(spec, plans=tuple(one.kept for one in planned))
    return spec


def check_deadline(spec: JobSpec, outlook: Outlook, typed: str, now: float) -> None:
    """Raises :class:`ConfigError` for one that not even one future in ten meets, where the plan has a
    time."""
    if spec.deadline_at is None or all(plan.hours is None for plan in spec.plans):
        return
    ends = outlook.ends
    if ends is None:
        raise ConfigError(
            f"deadline={short(typed)}: cannot be met: nothing that is to come lets it start; see 'queue', and"
            " leave the deadline out to have it wait"
        )
    late_s = ends.low_unix_s - spec.deadline_at
    if late_s <= 0:
        return
    other = "or more GPUs" if outlook.why is None else "more GPUs, or a class that is worth more"
    least = told(ends.low_unix_s + _MINUTE_S, now)
    raise ConfigError(
        f"deadline={short(typed)}: cannot be met: as things are it ends {told(ends.low_unix_s, now)} at the"
        f" earliest, {duration(max(late_s, 1.0))} late; give deadline='{least}' or later, {other}"
    )
