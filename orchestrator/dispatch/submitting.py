"""How a job gets into the queue: planned for each pool that it may run in, and refused before that where it
cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.dispatch.books import Books, month_of
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Fact, Submitted, Typed
from orchestrator.dispatch.fleet_file import FleetFile
from orchestrator.dispatch.named_jobs import keys_to_finish, refuse_circle, refuse_lost
from orchestrator.dispatch.pool_plans import Compose, compose_words, plans_in
from orchestrator.dispatch.queue_view import Outlook, QueueView
from orchestrator.dispatch.same_key import check_same, is_same, whose
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.times import time_of, told
from orchestrator.errors import ConfigError
from orchestrator.fleet.jobs import JobSpec
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
    again: bool = False  # one of this key that has ended and not finished goes on
    forecast: bool = True  # false: nobody asks when it starts and ends, nor whether it meets its deadline

    @property
    def typed(self) -> Typed:
        return Typed(self.job_class, self.usd_per_hour, self.deadline, self.pools, self.after)


def spec_of(
    words: tuple[str, ...], asked: Asked, fleet: FleetFile, store: Store, compose: Compose, now: float
) -> tuple[JobSpec, tuple[str, ...]]:
    """The job that is asked for, and what there is to say of it. Raises :class:`ConfigError` for what cannot
    be."""
    books, there = store.read(), store.entry(asked.key) if asked.key else None
    team, job_class = fleet.team(asked.team), fleet.job_class(asked.job_class)
    if there is not None and there.typed is not None and not asked.again:
        # Of one that is there already neither has to be still to come.
        first = there.submitted or there.job.spec
        deadline_at = first.deadline_at if there.typed.deadline == asked.deadline else None
        after = first.depends_on if there.typed.after == asked.after else None
    else:
        deadline_at = after = None
    if deadline_at is None and asked.deadline is not None:
        deadline_at = deadline_of(asked.deadline, now)
    if after is None:
        after = keys_to_finish(store, asked.after, (asked.key or "", asked.group), books)
    is_new = there is None or asked.again
    if is_new:
        _check_budget(team, fleet, books, now)
    named = tuple(fleet.pool(name) for name in asked.pools) or fleet.pools
    planned = plans_in(words, named, bool(asked.pools), compose, now, is_new)
    config = planned[0].config
    usd = amount_of("usd_per_hour", asked.usd_per_hour)
    penalty_usd = amount_of("penalty_usd", asked.penalty_usd) or 0.0
    if penalty_usd and deadline_at is None:
        raise ConfigError(
            f"penalty_usd={penalty_usd:g}: is lost when a deadline is missed, and there is none; give"
            " deadline= as well, or leave it out"
        )
    key = asked.key or new_run_name(config.job.name)
    check_key(key)
    spec = JobSpec(
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
        penalty_usd=penalty_usd,
        budget_usd=config.budget.usd,
        preemptible=_truth("preemptible", asked.preemptible, default=True),
        depends_on=after,
        group=asked.group,
    )
    return spec, planned[0].remarks


def deadline_of(typed: str, now: float) -> float:
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


def looked_at(
    store: Store,
    fleet: FleetFile,
    points: Sequence[Sequence[str]],
    asked: Asked,
    is_sweep: bool,
    view: QueueView,
) -> tuple[list[JobSpec], dict[str, Outlook]]:
    """The jobs that are asked for, and what would come of those that are not there."""
    group, specs = "", []
    remarks: dict[str, tuple[str, ...]] = {}
    if is_sweep:
        group = asked.key or new_run_name(compose_words(points[0]).job.name)
    for number, words in enumerate(points, 1):
        said = replace(asked, key=f"{group}-{number}", group=group) if group else asked
        spec, remarked = spec_of(tuple(words), said, fleet, store, compose_words, view.now)
        specs.append(spec)
        remarks[spec.key] = remarked
    there = {spec.key: store.entry(spec.key) for spec in specs}
    new = [spec for spec in specs if (entry := there[spec.key]) is None or entry.is_over]
    outlooks = view.outlooks(new) if new and asked.forecast else []
    for spec, outlook in zip(new, outlooks, strict=False):  # none where none is asked for
        check_deadline(spec, outlook, asked.deadline or "", view.now)
    return specs, {one.key: replace(one, remarks=list(remarks[one.key])) for one in outlooks}


@dataclass(frozen=True)
class Sender:
    """Who submits jobs, from which folder, and beside which words."""

    run_root: Path
    cwd: str
    by: str
    asked: Asked = field(default_factory=Asked)


def submit(store: Store, specs: Sequence[JobSpec], sender: Sender, now: float) -> list[tuple[Entry, bool]]:
    """Write them down, all or none; returns each as it is in the books, and whether it is new. The same key
    with the same words is the same job, whoever sends it again after he was cut off. They wait for the disk
    once.

    Raises :class:`ConfigError` as :func:`new_ones` does.
    """
    fresh: dict[str, Submitted] = {}

    def choose(books: Books) -> list[Fact]:
        nonlocal fresh
        fresh = new_ones(store, books, specs, sender, now)
        return list(fresh.values())

    books = store.write(sender.by, now, choose)
    found = []
    for spec in specs:
        entry = books.jobs.get(spec.key) or store.entry(spec.key)
        assert entry is not None, "what was submitted is there"
        found.append((entry, spec.key in fresh))
    return found


def new_ones(
    store: Store, books: Books, specs: Sequence[JobSpec], sender: Sender, now: float
) -> dict[str, Submitted]:
    """Those that are not there yet, or go on again, by their keys.

    Raises :class:`ConfigError` for a key that is another job's, or means what has ended, and for one that
    would come after what never finishes.
    """
    new: dict[str, Submitted] = {}
    typed, again = sender.asked.typed, sender.asked.again
    for spec in specs:
        entry = books.jobs.get(spec.key) or store.entry(spec.key)
        if entry is None and spec.key in new:
            if not is_same(new[spec.key].spec, spec):
                raise ConfigError(
                    f"key={spec.key}: {whose(new[spec.key].spec, None, now)}; choose another key"
                )
            continue
        if entry is not None and not check_same(entry, spec, typed, sender.cwd, again, now):
            continue
        if entry is None and (sender.run_root / spec.key / "journal.jsonl").exists():
            raise ConfigError(
                f"key={spec.key}: {sender.run_root / spec.key} holds a run already that is not of the queue;"
                " choose another key"
            )
        for key in spec.depends_on:
            before = books.jobs.get(key) or store.entry(key)
            if before is not None and key not in new:
                refuse_lost(key, [before])
        fact = Submitted(spec, spec.key, sender.cwd, typed)
        if entry is not None:
            refuse_circle(spec.key, spec.depends_on, books)
            job = entry.job
            fact = replace(fact, epoch=job.epoch, ran_s=job.ran_s, tally=entry.tally, ran_in=entry.ran_in)
        new[spec.key] = fact
    return new


def _check_budget(team: str, fleet: FleetFile, books: Books, now: float) -> None:
    limit = next((each.usd_per_month for each in fleet.teams if each.name == team), None)
    month = books.months.get((team, month_of(now)))
    if limit == 0.0:
        raise ConfigError(
            f"team={team}: has no budget: teams.{team}.usd_per_month in {fleet.path} is 0; raise it, or leave"
            " it out for as much as it asks for"
        )
    if limit is not None and month is not None and month.usd >= limit:
        raise ConfigError(
            f"team={team}: has spent its budget of {month.month} ({usd(month.usd)} of {usd(limit)}); raise"
            f" teams.{team}.usd_per_month in {fleet.path}, or wait for the next month"
        )


def amount_of(key: str, text: str | None) -> float | None:
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
