"""One run, wired: run directory, plan, journal, MLflow process, Ray, supervise loop, summary."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster import ray_env
from orchestrator.config.kueue_schema import check_kueue
from orchestrator.config.placeholders import SKIP_BATCHES, asks_for
from orchestrator.config.resume_changes import wishes_of
from orchestrator.config.schema import Config, Preflight
from orchestrator.config.signals import stop_numbers
from orchestrator.driver.budget import (
    budget_of,
    caps_of,
    check_against_plan,
    check_budget,
    check_resumed,
    write_money,
)
from orchestrator.driver.first_event import first_event
from orchestrator.driver.notifying import Notifier
from orchestrator.driver.observer import RunObserver
from orchestrator.driver.on_record import OnRecord
from orchestrator.driver.preflight import (
    Target,
    check_script_builds,
    find_target,
    planned,
)
from orchestrator.driver.preflight_check import look_again, nodes_to_leave_out
from orchestrator.driver.prices import Prices, with_prices
from orchestrator.driver.resume import (
    Unfinished,
    how_to_go_on,
    missing_names,
    remember,
    resumable,
    to_take_up,
)
from orchestrator.driver.script_preload import check_preload
from orchestrator.driver.sharing_sink import shared_place
from orchestrator.driver.stop_file import asked_by_file
from orchestrator.driver.stopping import asked_by_signals, exit_code
from orchestrator.driver.tracking import (
    MlflowSink,
    shell_address_remark,
    tracking_places,
    tracking_problem,
    write_run_metadata,
)
from orchestrator.driver.wiring import (
    Books,
    Wired,
    assigned,
    began_unix_s,
    connected,
    notifier_of,
    observers_of,
    open_books,
    tell_dashboard,
    workers_of,
    zygote_ahead,
)
from orchestrator.errors import EXIT_BUDGET_REACHED, ConfigError, RunDirectoryError, TrainingFailed
from orchestrator.events import Event, Record, RunEnded, Status
from orchestrator.ledger.run_directory import RunDirectory, check_run_name, new_run_name
from orchestrator.output import outlive_full_disks
from orchestrator.plan.plan import Plan
from orchestrator.supervise.budget_words import going_on
from orchestrator.supervise.clock import SystemClock
from orchestrator.supervise.loop import StopRequest, SupervisorOptions, supervise
from orchestrator.supervise.worker_group import WorkerGroup
from orchestrator.trust import check_nobody_elses

if TYPE_CHECKING:  # Ray takes a second to import
    from orchestrator.cluster.session import Session


def run(config: Config, view: RunObserver, takes_up: Unfinished | None = None, trust: bool = False) -> int:
    """Plan, launch, supervise, account; returns the exit code. ``takes_up``: the run that is gone on with;
    with ``trust`` one that ``job.resume=auto`` finds may be somebody else's, as may the folder of a new one.

    Raises :class:`~orchestrator.errors.OrchestratorError` for everything that a person can fix.
    """
    if takes_up is None and (found := to_take_up(config, trust)) is not None:
        config, takes_up = resumable(found.path, wishes_of(config))
    check_budget(config.budget)
    made = planned(config)
    plan = made.plan
    check_kueue(config.kueue, plan.billed_by.usd_per_gpu_hour, os.environ)
    if takes_up is None:
        check_against_plan(config, plan, caps_of(config, plan, time.time()), view.warn)
    check_script_builds(config)
    target = find_target(config)
    signals = stop_numbers(config.recovery.stop_signals)
    check_preload(config, target.address is None)
    problem = tracking_problem(config)
    name = takes_up.name if takes_up else config.run_name or new_run_name(plan.job)
    check_run_name(name)
    directory = RunDirectory(Path(config.run_dir or Path(config.run_root) / name), config.run_group_reads)
    check_stays(directory.path)
    if takes_up is None and not trust:
        check_nobody_elses(directory.path)
    with ExitStack() as stack:
        directory.hold(resume=takes_up is not None)
        stack.callback(directory.release)
        if takes_up is not None:
            check_resumed(config, plan, caps_of(config, plan, began_unix_s(takes_up)), takes_up.fold.folded)
        _tell_beforehand(config, plan, target, problem, takes_up, view)
        write_papers(config, plan, name, directory, takes_up)
        outlive_full_disks()
        stop = StopRequest()
        stack.enter_context(asked_by_signals(stop, signals))
        stack.enter_context(asked_by_file(directory.path, stop, view.warn))
        sink = MlflowSink(config, directory, problem, shared_place(config, plan))
        stack.callback(sink.close)
        typed_in = takes_up.typed_in if takes_up else Path.cwd()
        return _supervised(Wired(config, made, name, directory, target, stop, sink, view, takes_up, typed_in))


def check_stays(path: Path) -> None:
    """Raises :class:`ConfigError` for a run directory that would be deleted with all that is in it."""
    from orchestrator.cluster.ray_env import goes_with_the_job

    if goes_with_the_job(path):
        raise ConfigError(
            f"run directory {path}: is in the folder that Ray made for this job, and deletes with it; set"
            " run_root to a place that stays, e.g. run_root=/shared/runs, or ORCHESTRATOR_RUN_ROOT there"
        )


def write_papers(
    config: Config, plan: Plan, name: str, directory: RunDirectory, takes_up: Unfinished | None = None
) -> None:
    """What the next driver and people read of a run, before anything of it is started. Raises
    :class:`RunDirectoryError` where there is no room for that."""
    try:
        if takes_up is None:
            write_run_metadata(config, plan, name, directory)
            remember(config, directory)
        elif takes_up.changed:
            remember(config, directory, takes_up)
    except OSError as error:
        raise RunDirectoryError(
            f"run directory {directory.path}: cannot be written ({error.strerror}); make room there, or set"
            " run_root or run_dir to a folder that has some"
        ) from None


def _tell_beforehand(
    config: Config,
    plan: Plan,
    target: Target,
    problem: str | None,
    takes_up: Unfinished | None,
    view: RunObserver,
) -> None:
    """The plan, and what a person should know of it that is no reason not to start."""
    view.planned(plan)
    if target.remark:
        view.warn(target.remark)
    if problem:
        view.warn(
            f"MLflow: {problem}; going on without it, the journal keeps everything. It is asked again"
            " meanwhile"
        )
    if remark := shell_address_remark(config, plan, os.environ):
        view.notice(remark)
    if missing := missing_names(config, takes_up):
        view.warn(missing)


def _supervised(run: Wired) -> int:
    ray_env.prepare() if run.target.address is None else ray_env.prepare_to_attach(run.target.address)
    with ExitStack() as stack:
        # Before Ray, so that the seconds Ray takes to start are on record (and cost nothing).
        books = open_books(run, stack)
        assignment = assigned(run, stack)
        early = zygote_ahead(run, assignment, stack)
        run.sink.begin(run.view.notice)
        notifier = notifier_of(run, books)
        session = connected(run, stack)
        where = {"run directory": str(run.directory.path), **tell_dashboard(run, session)}
        leave_out: Mapping[str, str] = {}
        if run.config.preflight is not Preflight.off:
            leave_out = nodes_to_leave_out(run.config, run.plan.layout.nodes, session.address, run.view)
        workers = workers_of(run, assignment, books.resume_state, session, early, stack)
        on_record = OnRecord(run, books, observers_of(run, books, session, notifier, stack))
        events = _events(run, books, workers, leave_out, session, stack)
        with run.view.live():
            for event in events:
                on_record.put(event)
    return _ended(run, books, on_record, notifier, where)


def _events(
    run: Wired,
    books: Books,
    workers: WorkerGroup,
    leave_out: Mapping[str, str],
    session: Session,
    stack: ExitStack,
) -> Iterator[Event]:
    """What happens to the run from its first event to its last, the prices that change meanwhile among
    it."""
    config, plan, journal, ledger = run.config, run.plan, books.journal, books.ledger
    can_skip = asks_for(SKIP_BATCHES, plan.args)
    look = look_again(config, run.name, session.address, run.view)
    options = SupervisorOptions(config.launch.poll_s, can_skip, config.snapshot.enabled, leave_out, look)
    since_s = run.began_unix_s or time.time()
    caps = caps_of(config, plan, since_s)
    prices = Prices(config, lambda: ledger.usd_per_gpu_hour(journal.now_s), run.view.notice)
    stack.enter_context(prices.read_again())
    budget = budget_of(caps, plan, ledger, journal, since_s, books.shared, prices)
    begins = first_event(run, session)
    events = supervise(
        begins, workers, config.recovery, SystemClock(), run.stop, options, books.resume_state, budget
    )
    return with_prices(events, prices)


def _ended(run: Wired, books: Books, on_record: OnRecord, notifier: Notifier, where: dict[str, str]) -> int:
    """All that is told once nothing runs any more; returns the exit code."""
    directory, view, last, settled = run.directory, run.view, on_record.last, on_record.settled
    books.fold.finish()
    write_money(books.ledger, directory, view.notice)
    view.summary(last, books.ledger, where | tracking_places(run.config, run.sink.recorded))
    if (hint := how_to_go_on(last, directory.path, run.typed_in)) is not None:
        view.notice(going_on(hint, settled if _has_stopped_for_budget(last) else None))
    run.sink.finish(run.stop, view)
    notifier.finish(run.stop, view)
    return _exit_code(last, run.stop)


def _has_stopped_for_budget(last: Record | None) -> bool:
    return (
        last is not None and isinstance(last.event, RunEnded) and last.event.status is Status.BUDGET_REACHED
    )


def _exit_code(last: Record | None, stop: StopRequest) -> int:
    assert last is not None
    assert isinstance(last.event, RunEnded), "supervise ends every run with RunEnded"
    match last.event.status:
        case Status.FINISHED:
            return 0
        case Status.INTERRUPTED:
            return exit_code(stop)
        case Status.BUDGET_REACHED:
            return EXIT_BUDGET_REACHED
        case _:
            return TrainingFailed.exit_code
