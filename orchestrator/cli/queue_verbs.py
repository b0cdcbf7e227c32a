"""What the verbs of the queue do with what they are told; `cli/show/queue_table.py` shows it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError, near_miss

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.config.schema import Config
    from orchestrator.dispatch.entries import Entry
    from orchestrator.dispatch.facts import Fact
    from orchestrator.dispatch.fleet_file import FleetFile
    from orchestrator.dispatch.queue_view import QueuedJob, QueueView
    from orchestrator.dispatch.store import Store
    from orchestrator.dispatch.submitting import Asked
    from orchestrator.driver.observer import Progress


def dispatch(composed: DictConfig, invocation: Invocation) -> int:
    import signal
    import threading

    from orchestrator.dispatch.fleet_file import read_fleet_file
    from orchestrator.dispatch.serve import daemon_pid, serve

    run_root, screen = _run_root(composed), Screen(soft_wrap=True, highlight=False)
    if invocation.stop:
        pid = daemon_pid(read_fleet_file(run_root).state_dir)
        if pid is None:
            screen.print(f"no daemon leads the queue of {run_root}")
            return 0
        os.kill(pid, signal.SIGTERM)
        screen.print(f"the daemon (process {pid}) is asked to end; runs go on without it")
        return 0
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    serve(run_root, lambda text: screen.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"), over)
    return 0


def start_with_up(composed: DictConfig, view: Progress) -> None:
    """Where there is a queue its daemon leads from here on."""
    from orchestrator.dispatch.fleet_file import NAME, read_fleet_file
    from orchestrator.dispatch.serve import LOG, start_daemon

    run_root = _run_root(composed)
    if not (run_root / NAME).exists():
        return
    log = read_fleet_file(run_root).state_dir / LOG
    pid = start_daemon(run_root)
    if pid is None:
        view.warn(f"warning: the queue's daemon did not start, see {log}")
    else:
        view.say(f"the queue of {run_root} is led by process {pid} (log: {log})")


def submit(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_table import outlook_lines, submitted_line
    from orchestrator.dispatch.submitting import check_deadline, spec_of
    from orchestrator.dispatch.submitting import submit as write
    from orchestrator.users import user_name

    now, words = time.time(), invocation.typed
    with _queue(composed) as (store, fleet, run_root):
        spec = spec_of(words, _asked(invocation), fleet, store.read(), _compose, now)
        there = store.entry(spec.key)
        outlook = None
        if there is None:
            outlook = _view(store, fleet, run_root, now).outlook(spec)
            check_deadline(spec, outlook, _asked(invocation).deadline or "", now)
        if not invocation.dry_run:
            entry, is_new = write(store, spec, run_root, os.getcwd(), user_name(), now)
            outlook = outlook if is_new else None
        if invocation.json:
            body = dataclasses.asdict(outlook) if outlook else {"key": spec.key}
            print(json.dumps(body, indent=2))
            return 0
        screen = Screen(soft_wrap=True, highlight=False)
        if not invocation.dry_run:
            screen.print(submitted_line(entry, outlook is not None, _leads(fleet), now))
        for line in outlook_lines(outlook, now) if outlook else ():
            screen.print(line)
    return 0


def queue(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_table import print_queue, print_why

    now = time.time()
    with _queue(composed) as (store, fleet, run_root):
        if invocation.why:
            job = _view(store, fleet, run_root, now).job(invocation.why)
            entry = _entry(store, invocation.why) if job is None else None
            if invocation.json:
                print(json.dumps(_json_of(job, entry), indent=2))
            else:
                print_why(job, entry, now, Screen(soft_wrap=True, highlight=False))
            return 0
        view = _view(store, fleet, run_root, now)
        jobs = view.jobs()
        if invocation.json:
            print(json.dumps([dataclasses.asdict(job) for job in jobs], indent=2))
        else:
            print_queue(jobs, view.world, _leads(fleet), store.newest_ended(3), now, Screen())
    return 0


def _json_of(job: QueuedJob | None, entry: Entry | None) -> dict[str, Any]:
    """One that has ended has a state, and why."""
    if job is not None:
        return dataclasses.asdict(job)
    assert entry is not None, "one of both is there"
    return {"key": entry.key, "state": entry.job.state.value, "because": entry.because}


def cancel(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.dispatch.facts import CancelAsked

    return _ask(
        composed, invocation.run, lambda key: CancelAsked(key), "is asked to save and end", "is cancelled"
    )


def hold(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.dispatch.facts import HeldBack, LetGo
    from orchestrator.users import user_name

    if invocation.off:
        return _ask(composed, invocation.run, lambda key: LetGo(key), "goes on", "may start again")
    why = f"{user_name()} holds it"
    return _ask(
        composed, invocation.run, lambda key: HeldBack(key, why), "is asked to save and leave", "is held"
    )


def move(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.dispatch.facts import Changed
    from orchestrator.dispatch.submitting import moved_spec

    if not invocation.queue_words:
        raise ConfigError(f"move {invocation.run}: to what? say class=, deadline=, pool= or usd_per_hour=")
    with _queue(composed) as (store, fleet, _):
        entry = _entry(store, invocation.run)
        spec = moved_spec(entry, _asked(invocation), fleet, _compose, time.time())
        _write(store, [Changed(spec)])
    told = ", ".join(f"{key}={value}" for key, value in invocation.queue_words)
    Screen(soft_wrap=True, highlight=False).print(f"{entry.key}: {told}")
    return 0


def quota(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_table import print_quotas
    from orchestrator.dispatch.quotas import quotas_of

    now = time.time()
    with _queue(composed) as (store, fleet, run_root):
        world = _view(store, fleet, run_root, now).world
        rows = quotas_of(world, store.read(), now)
    if invocation.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        print_quotas(rows, Screen())
    return 0


def reserve(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.dispatch.reserving import end_facts, reserve_facts
    from orchestrator.dispatch.times import told

    now, words = time.time(), dict(invocation.queue_words)
    screen = Screen(soft_wrap=True, highlight=False)
    with _queue(composed) as (store, fleet, _):
        if invocation.off:
            _write(store, end_facts(words.get("name"), store.read()))
            screen.print(f"{words['name']}: is no longer reserved")
            return 0
        if not words:
            for name, named in sorted(store.read().reservations.items()):
                one = named.reservation
                who = f"job {one.job}" if one.job else f"team {one.team}"
                span = f"{told(one.from_at, now)} to {told(one.until_at, now)}"
                screen.print(f"{name}: {one.nodes} nodes of {one.pool} for {who}, {span} {one.why}".rstrip())
            return 0
        facts = reserve_facts(words, fleet, store.read(), now)
        _write(store, facts)
    screen.print(f"{facts[0].name}: reserved; 'reserve name={facts[0].name} --off' ends it")
    return 0


def drain(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.dispatch.facts import NodeDrained

    with _queue(composed) as (store, _fleet, _):
        books = store.read()
        hosts = {slot.host for slot in books.nodes.values()}
        if invocation.run not in hosts:
            there = f"there are {', '.join(sorted(hosts))}" if hosts else "the daemon has seen none yet"
            raise ConfigError(
                f"drain {invocation.run}: no such node{near_miss(invocation.run, hosts)}; {there}"
            )
        _write(store, [NodeDrained(invocation.run, invocation.off)])
    what = "takes jobs again" if invocation.off else "what runs there may end, and nothing starts there"
    Screen(soft_wrap=True, highlight=False).print(f"{invocation.run}: {what}")
    return 0


def _ask(composed: DictConfig, key: str, fact: Any, if_running: str, if_waiting: str) -> int:
    from orchestrator.fleet.jobs import ENDED, HAS_NODES, JobState

    with _queue(composed) as (store, fleet, _):
        entry = _entry(store, key)
        state = entry.job.state
        if state in ENDED:
            raise ConfigError(f"{key}: has ended already ({state.value})")
        _write(store, [fact(key)])
        runs = state in (*HAS_NODES, JobState.STOPPING)
        note = "" if not runs or _leads(fleet) else "; no daemon leads, so nobody asks it before 'up'"
    Screen(soft_wrap=True, highlight=False).print(f"{key}: {if_running if runs else if_waiting}{note}")
    return 0


@contextmanager
def _queue(composed: DictConfig) -> Iterator[tuple[Store, FleetFile, Path]]:
    from orchestrator.dispatch.fleet_file import read_fleet_file
    from orchestrator.dispatch.store import Store

    run_root = _run_root(composed)
    fleet = read_fleet_file(run_root)
    with Store(fleet.state_dir) as store:
        yield store, fleet, run_root


def _run_root(composed: DictConfig) -> Path:
    return Path(composed.run_root).resolve()


def _view(store: Store, fleet: FleetFile, run_root: Path, now: float) -> QueueView:
    from orchestrator.dispatch.queue_view import QueueView
    from orchestrator.dispatch.seen_file import read_seen

    return QueueView(store.read(), fleet, run_root, now, read_seen(fleet.state_dir, now))


def _leads(fleet: FleetFile) -> bool:
    from orchestrator.dispatch.serve import daemon_pid

    return daemon_pid(fleet.state_dir) is not None


def _entry(store: Store, key: str) -> Entry:
    entry = store.entry(key)
    if entry is None:
        known = [*store.read().jobs, *(each.key for each in store.newest_ended(100))]
        raise ConfigError(f"{key}: no such job in the queue{near_miss(key, known)}; 'queue' lists them")
    return entry


def _write(store: Store, facts: Sequence[Fact]) -> None:
    from orchestrator.users import user_name

    store.write(user_name(), time.time(), lambda _books: facts)


def _asked(invocation: Invocation) -> Asked:
    from orchestrator.dispatch.submitting import Asked

    words = dict(invocation.queue_words)
    pools, after = words.pop("pool", ""), words.pop("after", "")
    named: dict[str, Any] = {"job_class" if key == "class" else key: value for key, value in words.items()}
    return Asked(
        **named,
        pools=tuple(each for each in pools.split(",") if each),
        after=tuple(each for each in after.split(",") if each),
    )


def _compose(words: Sequence[str]) -> Config:
    from orchestrator.config.composing import compose

    return compose(*words)
