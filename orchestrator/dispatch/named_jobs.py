"""The jobs that somebody means by a key: one, or those of a group.

Whoever writes gives the books that he sees while nobody else writes; else they are read.
"""

from __future__ import annotations

from orchestrator.dispatch.books import Books
from orchestrator.dispatch.entries import Entry
from orchestrator.dispatch.store import Store
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.jobs import ENDED, JobState

_NEAR = 100  # jobs that ended last, among which a misspelt key is looked for


def entry_named(store: Store, key: str, books: Books | None = None) -> Entry:
    """Also one that has ended. Raises :class:`ConfigError` where there is none."""
    entry = store.entry(key)
    if entry is None:
        live = (books or store.read()).live()
        groups = {one.job.spec.group for one in live} - {""}
        known = [
            *(one.key for one in live),
            *groups,
            *(each.key for each in store.newest_ended(_NEAR)),
        ]
        raise ConfigError(f"{key}: no such job in the queue{near_miss(key, known)}; 'queue' lists them")
    return entry


def entries_named(store: Store, key: str, books: Books) -> list[Entry]:
    """A job that has not ended, or those of a group that have not.

    Raises :class:`ConfigError` where there is none.
    """
    group = [entry for entry in books.live() if entry.job.spec.group == key]
    if group and store.entry(key) is None:
        return group
    entry = entry_named(store, key, books)
    if entry.job.state in ENDED:
        anew = "" if entry.job.state is JobState.FINISHED else "; 'submit --again' goes on with it"
        raise ConfigError(f"{key}: has ended already ({entry.job.state.value}){anew}")
    return [entry]


def held_ones(store: Store, key: str, books: Books) -> list[Entry]:
    """Those of them that somebody or something keeps from starting.

    Raises :class:`ConfigError` where nothing does.
    """
    entries = entries_named(store, key, books)
    held = [entry for entry in entries if _is_held(entry)]
    if not held:
        states = ", ".join(sorted({entry.job.state.value for entry in entries}))
        raise ConfigError(
            f"{key}: nothing holds it, it is {states}; 'queue --why {key}' says what it waits for"
        )
    return held


def _is_held(entry: Entry) -> bool:
    """Or waits to be tried again, or is asked to leave so that it is held."""
    return JobState.HELD in (entry.job.state, entry.wanted) or entry.again_at is not None


def keys_to_finish(
    store: Store, named: tuple[str, ...], own: tuple[str, ...], books: Books
) -> tuple[str, ...]:
    """The jobs that another is to come after, of a group each. They have to be in the queue, or to have
    finished: so no circle can come to be, and nobody waits for ever.

    Raises :class:`ConfigError` for what never finishes, and for the job's ``own`` key and group.
    """
    found: list[str] = []
    for key in named:
        if key in own:
            raise ConfigError(f"after={key}: a job cannot wait for itself; leave it out")
        entry = books.jobs.get(key) or store.entry(key)
        entries = [entry] if entry is not None else store.group(key)
        if not entries:
            known = {*books.jobs, *books.finished, *(one.job.spec.group for one in books.live())} - {""}
            raise ConfigError(
                f"after={key!a}: there is no such job in the queue, nor one that has finished"
                f"{near_miss(key, known)}; submit that one first"
            )
        refuse_lost(key, entries)
        found += [one.key for one in entries]
    return tuple(dict.fromkeys(found))


def refuse_lost(key: str, entries: list[Entry]) -> None:
    """Raises :class:`ConfigError` where one of them has ended and not finished."""
    for one in entries:
        if one.is_over and one.job.state is not JobState.FINISHED:
            raise ConfigError(
                f"after={key}: {one.key} has ended and not finished ({one.job.state.value}), so what comes"
                f" after it would wait for ever; 'submit --again key={one.job.spec.group or one.key} …' goes"
                " on with it"
            )


def refuse_circle(key: str, named: tuple[str, ...], books: Books) -> None:
    """Raises :class:`ConfigError` where a job that goes on again would wait for one that waits for it."""
    for first in named:
        left, seen = [first], {first}
        while left:
            entry = books.jobs.get(left.pop())
            before = set(entry.job.spec.depends_on) - seen if entry is not None else set()
            if key in before:
                raise ConfigError(f"after={first}: comes after {key} itself; leave it out")
            seen |= before
            left += before
