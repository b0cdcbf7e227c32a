"""A job of the queue gets another class, deadline, cost of delay or pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.facts import Changed, Fact
from orchestrator.dispatch.fleet_file import FleetFile, JobClass
from orchestrator.dispatch.named_jobs import entries_named
from orchestrator.dispatch.pool_plans import Compose, compose_words, plans_in
from orchestrator.dispatch.queue_view import Outlook, QueueView
from orchestrator.dispatch.store import Choose, Store
from orchestrator.dispatch.submitting import Asked, amount_of, check_deadline, deadline_of
from orchestrator.errors import ConfigError
from orchestrator.fleet.jobs import HAS_NODES, JobSpec, PoolPlan


@dataclass(frozen=True)
class Change:
    """What is to become of jobs. It is checked and planned before anybody is kept waiting, and holds whatever
    others do meanwhile: it says nothing of what it does not change."""

    job_class: JobClass | None
    usd_per_hour: float | None
    deadline_at: float | None
    pools: tuple[str, ...]
    plans: Mapping[tuple[str, tuple[str, ...]], tuple[PoolPlan, ...]]  # by key and words

    def of(self, entry: Entry) -> JobSpec:
        """The job as it is to be. Raises :class:`ConfigError` for one that cannot be changed so now."""
        spec = entry.job.spec
        if self.job_class is not None:
            spec = replace(
                spec,
                job_class=self.job_class.name,
                usd_per_hour=self.job_class.usd_per_hour,
                rank=self.job_class.rank,
            )
        if self.usd_per_hour is not None:
            spec = replace(spec, usd_per_hour=self.usd_per_hour)
        if self.deadline_at is not None:
            spec = replace(spec, deadline_at=self.deadline_at)
        if not self.pools:
            return spec
        here = entry.job.placement
        if here is not None and entry.job.state in HAS_NODES and here.pool not in self.pools:
            raise ConfigError(
                f"pool={','.join(self.pools)}: {entry.key} is on {here.pool} now; hold it first"
                f" ('hold {entry.key}'), move it, and let it go with 'hold {entry.key} --off'"
            )
        plans = self.plans.get((entry.key, spec.overrides))
        if plans is None:
            raise ConfigError(f"move: {entry.key} came to the group meanwhile; type it again")
        return replace(spec, plans=plans)


def change_of(
    entries: Sequence[Entry], asked: Asked, fleet: FleetFile, compose: Compose, now: float
) -> Change:
    """Another class, deadline, cost of delay or pools. Raises :class:`ConfigError` for what cannot be."""
    pools = tuple(fleet.pool(name) for name in asked.pools)
    plans = {}
    for entry in entries if pools else ():
        words = entry.job.spec.overrides
        planned = plans_in(words, pools, True, compose, now)
        plans[entry.key, words] = tuple(one.kept for one in planned)
    return Change(
        fleet.job_class(asked.job_class) if asked.job_class is not None else None,
        amount_of("usd_per_hour", asked.usd_per_hour),
        deadline_of(asked.deadline, now) if asked.deadline is not None else None,
        tuple(each.pool.name for each in pools),
        plans,
    )


def move(
    store: Store,
    key: str,
    asked: Asked,
    fleet: FleetFile,
    view: QueueView,
    write: Callable[[Choose], Books],
) -> list[Outlook]:
    """Change a job, or all of a group; returns what comes of it.

    Planning and forecasting take seconds with a long queue, and others write meanwhile. So what these say is
    advice, and the jobs are looked at and changed once more while nobody else writes.

    Raises :class:`ConfigError` for what cannot be.
    """
    entries = entries_named(store, key, store.read())
    change = change_of(entries, asked, fleet, compose_words, view.now)
    specs = [change.of(entry) for entry in entries]
    outlooks = {outlook.key: outlook for outlook in view.outlooks(specs)}
    if asked.deadline is not None:
        for spec in specs:
            check_deadline(spec, outlooks[spec.key], asked.deadline, view.now)
    moved: list[JobSpec] = []

    def choose(books: Books) -> list[Fact]:
        moved[:] = [change.of(entry) for entry in entries_named(store, key, books)]
        return [Changed(spec) for spec in moved]

    write(choose)
    return [outlooks[spec.key] for spec in moved if spec.key in outlooks]
