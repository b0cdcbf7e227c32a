"""What the verbs of the queue do with what they are told: they call what a program calls
(`dispatch/queue.py`), and `cli/show/` shows it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError
from orchestrator.text import clean

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.dispatch.queue import Queue
    from orchestrator.dispatch.queue_answers import Heard
    from orchestrator.dispatch.submitting import Asked
    from orchestrator.driver.observer import Progress


def dispatch(composed: DictConfig, invocation: Invocation) -> int:
    import signal
    import threading

    from orchestrator.dispatch.serve import serve

    run_root, screen = _run_root(composed), Screen(soft_wrap=True, highlight=False)
    if invocation.stop:
        return _stop_daemon(run_root, screen, invocation.json)
    if invocation.json:
        raise ConfigError(
            "--json: is of 'dispatch --stop', which answers; a daemon goes on until it is ended"
        )
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    serve(run_root, lambda text: screen.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"), over)
    return 0


def _stop_daemon(run_root: Path, screen: Screen, as_json: bool) -> int:
    import signal

    from orchestrator.dispatch.queue_answers import DaemonAsked
    from orchestrator.dispatch.queue_place import fleet_here
    from orchestrator.dispatch.serve import daemon_pid

    pid = daemon_pid(fleet_here(run_root).state_dir)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    if as_json:
        _print_json(DaemonAsked(str(run_root), pid))
    elif pid is None:
        screen.print(f"no daemon leads the queue of {run_root}")
    else:
        screen.print(f"the daemon (process {pid}) is asked to end; runs go on without it")
    return 0


def start_with_up(composed: DictConfig, view: Progress) -> None:
    """Where there is a queue its daemon leads from here on."""
    from orchestrator.dispatch.fleet_file import NAME
    from orchestrator.dispatch.queue_place import NotHere, fleet_here
    from orchestrator.dispatch.serve import LOG, start_daemon

    run_root = _run_root(composed)
    if not (run_root / NAME).exists():
        return
    try:
        log = fleet_here(run_root).state_dir / LOG
    except NotHere as elsewhere:  # the cluster is up, and its queue is not to be led from here
        view.warn(f"warning: no daemon is started: {elsewhere}")
        return
    pid = start_daemon(run_root)
    if pid is None:
        view.warn(f"warning: the queue's daemon did not start, see {log}")
    else:
        view.say(f"the queue of {run_root} is led by process {pid} (log: {log})")


def submit(composed: DictConfig, invocation: Invocation) -> int:
    return submit_points(queue_of(composed), [invocation.typed], invocation, is_sweep=False)


def submit_points(
    queue: Queue, points: Sequence[Sequence[str]], invocation: Invocation, is_sweep: bool
) -> int:
    """Submit what was typed, or each point of a sweep, and show what comes of it."""
    from orchestrator.cli.show.queue_sentences import outlook_lines, submitted_line

    asked, now = _asked(invocation), time.time()
    if invocation.dry_run and invocation.no_forecast:
        raise ConfigError("--no-forecast: --dry-run does nothing but to forecast; leave one of them out")
    if invocation.dry_run:
        outlooks = queue.outlooks(points, asked, is_sweep)
        if invocation.json:
            _print_json(outlooks if is_sweep else outlooks[0])
            return 0
        for outlook in outlooks:
            _say([f"{outlook.key}:"] if is_sweep else [], outlook_lines(outlook, now))
        return 0
    done = queue.submit_all(points, asked, is_sweep)
    if invocation.json:
        _print_json(done if is_sweep else done[0])
        return 0
    is_led = queue.is_led
    for one in done:
        _say([submitted_line(one, is_led, now)], outlook_lines(one.outlook, now) if one.outlook else ())
    return 0


def queue(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_sentences import why_sentences
    from orchestrator.cli.show.queue_table import print_queue

    found, now = queue_of(composed), time.time()
    if invocation.why:
        job = found.job(invocation.why)
        if invocation.json:
            _print_json(job)
        else:
            _say(why_sentences(job, now))
        return 0
    seen = found.now()
    if invocation.json:
        _print_json(seen)
    else:
        print_queue(seen, now, Screen())
    return 0


def cancel(composed: DictConfig, invocation: Invocation) -> int:
    queue = queue_of(composed)
    heard = queue.cancel(invocation.run)
    return _heard(queue, heard, invocation, "is asked to save and end", "is cancelled")


def hold(composed: DictConfig, invocation: Invocation) -> int:
    queue = queue_of(composed)
    if invocation.off:
        return _heard(queue, queue.release(invocation.run), invocation, "goes on", "may start again")
    heard = queue.hold(invocation.run)
    return _heard(queue, heard, invocation, "is asked to save and leave", "is held")


def move(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_sentences import outlook_lines

    if not invocation.queue_words:
        raise ConfigError(f"move {invocation.run}: to what? say class=, deadline=, pool= or usd_per_hour=")
    told = ", ".join(f"{key}={value}" for key, value in invocation.queue_words)
    outlooks = queue_of(composed).move_as_asked(invocation.run, _asked(invocation))
    if invocation.json:
        _print_json(outlooks)
        return 0
    for outlook in outlooks:
        _say([f"{outlook.key}: {told}"], outlook_lines(outlook, time.time()))
    return 0


def quota(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_table import print_quotas

    rows = queue_of(composed).quotas()
    if invocation.json:
        _print_json(rows)
    else:
        print_quotas(rows, Screen())
    return 0


def reserve(composed: DictConfig, invocation: Invocation) -> int:
    from orchestrator.cli.show.queue_sentences import reserved_line

    queue, words, now = queue_of(composed), dict(invocation.queue_words), time.time()
    if invocation.off:
        ended = queue.end_reservation(words.get("name", ""))
        _answer(invocation, ended, [f"{ended.name}: is no longer reserved"])
    elif words:
        made = queue.reserve_as_asked(words)
        lines = [reserved_line(made, now), f"'reserve name={made.name} --off' ends it"]
        _answer(invocation, made, lines)
    else:
        kept = queue.reservations()
        lines = [reserved_line(one, now) for one in kept]
        _answer(invocation, kept, lines or ["nothing is reserved"])
    return 0


def drain(composed: DictConfig, invocation: Invocation) -> int:
    done = queue_of(composed).drain(invocation.run, invocation.off)
    what = "takes jobs again" if invocation.off else "what runs there may end, and nothing starts there"
    there = f" ({', '.join(map(clean, done.jobs))})" if done.jobs and done.is_drained else ""
    _answer(invocation, done, [f"{invocation.run}: {what}{there}"])
    return 0


def queue_of(composed: DictConfig) -> Queue:
    """That of the run root. Raises :class:`ConfigError` where there is none."""
    from orchestrator.dispatch.queue import queue as opened

    return opened(_run_root(composed))


def _run_root(composed: DictConfig) -> Path:
    return Path(composed.run_root).resolve()


def _heard(
    queue: Queue, heard: Sequence[Heard], invocation: Invocation, if_running: str, if_waiting: str
) -> int:
    from orchestrator.cli.show.queue_sentences import heard_line

    if invocation.json:
        _print_json(heard)
        return 0
    is_led = queue.is_led
    _say(heard_line(one, if_running, if_waiting, is_led) for one in heard)
    return 0


def _answer(invocation: Invocation, found: Any, lines: Sequence[str]) -> None:
    if invocation.json:
        _print_json(found)
    else:
        _say(lines)


def _say(*parts: Iterable[str]) -> None:
    from orchestrator.cli.show.queue_table import say

    console = Screen()
    for lines in parts:
        for line in lines:
            say(console, line)


def _print_json(found: Any) -> None:
    """One of our dataclasses, or a list of them."""
    body = (
        [dataclasses.asdict(one) for one in found] if isinstance(found, list) else dataclasses.asdict(found)
    )
    print(json.dumps(body, indent=2))


def _asked(invocation: Invocation) -> Asked:
    from orchestrator.dispatch.submitting import Asked

    words = dict(invocation.queue_words)
    pools, after = words.pop("pool", ""), words.pop("after", "")
    named: dict[str, Any] = {"job_class" if key == "class" else key: value for key, value in words.items()}
    return Asked(
        **named,
        pools=tuple(each for each in pools.split(",") if each),
        after=tuple(each for each in after.split(",") if each),
        again=invocation.again,
        forecast=not invocation.no_forecast,
    )
