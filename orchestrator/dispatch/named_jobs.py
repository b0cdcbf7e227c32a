"""The jobs that somebody means by a key: one, or those of a group."""

from __future__ import annotations

from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.store import Store
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.jobs import ENDED

_NEAR = 100  # jobs that ended last, among which a misspelt key is looked for


def entry_named(store: Store, key: str) -> Entry:
    """Also one that has ended. Raises :class:`ConfigError` where there is none."""
    entry = store.entry(key)
    if entry is None:
        books = store.read()
        groups = {one.job.spec.group for one in books.live()} - {""}
        known = [*books.jobs, *groups, *(each.key for each in store.newest_ended(_NEAR))]
        raise ConfigError(f"{key}: no such job in the queue{near_miss(key, known)}; 'queue' lists them")
    return entry


def entries_named(store: Store, key: str) -> list[Entry]:
    """A job that has not ended, or those of a group that have not.

    Raises :class:`ConfigError` where there is none.
    """
    group = [entry for entry in store.read().live() if entry.job.spec.group == key]
    if group and store.entry(key) is None:
        return group
    entry = entry_named(store, key)
    if entry.job.state in ENDED:
        raise ConfigError(f"{key}: has ended already ({entry.job.state.value}); submit it anew")
    return [entry]
