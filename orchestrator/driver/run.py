"""One run, wired: run directory, plan, journal, MLflow process, Ray, supervise loop, summary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from orchestrator.driver.kueue import KueueBoost
from orchestrator.driver.node_notes import RunNotes
from orchestrator.driver.notifying import Notifier
from orchestrator.driver.observer import Observer, RunObserver
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
    resume_command,
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
    gauges_of,
    open_books,
    tell_dashboard,
    workers_of,
    zygote_ahead,
)
from orchestrator.errors import EXIT_BUDGET_REACHED, ConfigError, RunDirectoryError, TrainingFailed
from orchestrator.events import BudgetSettled, Event, Record, RunEnded, RunResumed, RunStarted, Status
from orchestrator.ledger.charge import cost_usd
from orchestrator.ledger.journal import Journal, disk_is_full
from orchestrator.ledger.run_directory import RunDirectory, check_run_name, new_run_name
from orchestrator.ledger.spend import SpendNote
from orchestrator.output import outlive_full_disks
from orchestrator.plan.plan import Plan
from orchestrator.redact import redact, redact_fields
from orchestrator.supervise.budget_words import going_on
from orchestrator.supervise.clock import SystemClock
from orchestrator.supervise.loop import StopRequest, SupervisorOptions, supervise
from orchestrator.supervise.worker_group import WorkerGroup
from orchestrator.trust import check_nobody_elses

if TYPE_CHECKING:  # Ray takes a second to import
    from orchestrator.cluster.session import Session

_SPACE_S = 1.0


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
        notifier = _notifier(run, books)
        session = connected(run, stack)
        where = {"run directory": str(run.directory.path), **tell_dashboard(run, session)}
        leave_out: Mapping[str, str] = {}
        if run.config.preflight is not Preflight.off:
            leave_out = nodes_to_leave_out(run.config, run.plan.layout.nodes, session.address, run.view)
        workers = workers_of(run, assignment, books.resume_state, session, early, stack)
        kueue = KueueBoost(run.config.kueue, run.view.notice)
        stack.enter_context(kueue.told())
        observers: tuple[Observer, ...] = (
            run.view,
            gauges_of(run, books, session, stack),
            SpendNote(run.config, run.name, run.plan.unit, books.ledger, run.view.notice),
            notifier,
            kueue,
            RunNotes(run.config.run_root, run.view.notice),
        )
        on_record = _OnRecord(run, books, observers)
        events = _events(run, books, workers, leave_out, session, stack)
        with run.view.live():
            for event in events:
                on_record.put(event)
    return _ended(run, books, on_record, notifier, where)


def _notifier(run: Wired, books: Books) -> Notifier:
    """Tells people from here on, and nothing of what an earlier driver has told."""
    earlier_seq = books.fold.mark.last.seq if books.fold.mark else -1
    go_on = resume_command(run.directory.path, run.typed_in)
    notifier = Notifier(run.config, run.directory.path, go_on, earlier_seq)
    notifier.begin(run.view.notice)
    return notifier


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
    started = (
        _resumed(run.takes_up, plan)
        if run.takes_up
        else run_started(
            plan, run.name, None if session.local else session.address, config.cluster.grid_gco2_per_kwh
        )
    )
    can_skip = asks_for(SKIP_BATCHES, plan.args)
    look = look_again(config, run.name, session.address, run.view)
    options = SupervisorOptions(config.launch.poll_s, can_skip, config.snapshot.enabled, leave_out, look)
    since_s = run.began_unix_s or time.time()
    caps = caps_of(config, plan, since_s)
    prices = Prices(config, lambda: ledger.usd_per_gpu_hour(journal.now_s), run.view.notice)
    stack.enter_context(prices.read_again())
    budget = budget_of(caps, plan, ledger, journal, since_s, books.shared, prices)
    events = supervise(
        started, workers, config.recovery, SystemClock(), run.stop, options, books.resume_state, budget
    )
    return with_prices(events, prices)


class _OnRecord:
    """Puts what happens on record, and then tells it: the journal comes before anything that follows from
    it."""

    def __init__(self, run: Wired, books: Books, observers: Sequence[Observer]) -> None:
        self._run, self._books, self._observers = run, books, observers
        self.last: Record | None = None
        self.settled: BudgetSettled | None = None

    def put(self, event: Event) -> None:
        run, ledger = self._run, self._books.ledger
        self.last = record = _on_record(self._books.journal, event, run.view.notice, run.stop)
        if isinstance(event, BudgetSettled):
            self.settled = event
        if isinstance(event, RunEnded):
            run.sink.run_ended()
        self._books.fold.appended(record)
        # so that what is told while it goes on is what the journal says afterwards
        if record.event.durable:
            ledger.fold(record)
        bill = ledger.bill(record.elapsed_s)
        for observer in self._observers:
            observer.observe(record, bill)


def _ended(run: Wired, books: Books, on_record: _OnRecord, notifier: Notifier, where: dict[str, str]) -> int:
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


def _resumed(takes_up: Unfinished, plan: Plan) -> RunResumed:
    """With what the run goes on with, where that is not what it began with."""
    if not takes_up.changed:
        return takes_up.resumed
    changed = [redact(word) for word in takes_up.changed]
    return replace(takes_up.resumed, changed=changed, steps=plan.prediction.steps, gpus=plan.layout.ranks)


def _has_stopped_for_budget(last: Record | None) -> bool:
    return (
        last is not None and isinstance(last.event, RunEnded) and last.event.status is Status.BUDGET_REACHED
    )


def run_started(
    plan: Plan, name: str, ray_address: str | None, grid_gco2_per_kwh: float | None = None
) -> RunStarted:
    """The run's first event: all that the meter needs, and where it ran unless on a cluster of its own."""
    currency, energy = plan.billed_by.currency, plan.prediction.energy
    return RunStarted(
        run=name,
        job=plan.job,
        cluster=plan.cluster,
        gpu_type=plan.gpu_type,
        gpus=plan.layout.ranks,
        price_usd_per_gpu_hour=plan.billed_by.usd_per_gpu_hour,
        unit=plan.unit,
        steps=plan.prediction.steps,
        tokens_per_step=plan.prediction.tokens_per_step,
        model_flops_per_token=plan.model.training_flops_per_token if plan.model else None,
        peak_flops_per_gpu=plan.peak_flops_per_gpu,
        ray_address=ray_address,
        predicted_step_time_s=plan.prediction.step_time_s,
        predicted_memory_bytes=plan.memory.total_bytes if plan.memory else None,
        predicted_cost_usd_per_step=_cost_usd_per_step(plan),
        currency=currency.code if currency else "",
        usd_per_currency_unit=currency.usd_per_unit if currency else None,
        modelled_watts_per_gpu=energy.mean_power_w / plan.layout.ranks if energy else None,
        grid_gco2_per_kwh=grid_gco2_per_kwh,
    )


def _cost_usd_per_step(plan: Plan) -> float | None:
    """Of a run of known length its share of the whole, faults and checkpoints included; else of a step
    alone."""
    predicted = plan.prediction
    if predicted.cost_usd is not None and predicted.steps:
        return predicted.cost_usd / predicted.steps
    if predicted.step_time_s is None:
        return None
    return cost_usd(predicted.step_time_s * plan.layout.ranks, plan.billed_by.usd_per_gpu_hour)


def _on_record(journal: Journal, event: Event, notice: Callable[[str], None], stop: StopRequest) -> Record:
    """Append, and while the disk is full wait for space: nothing happens that is not on record."""
    announced = False
    while True:
        try:
            return journal.append(redact_fields(event))
        except RunDirectoryError as error:
            if not disk_is_full(error) or stop.level > 1:
                raise
            if not announced:
                notice(f"{error}; waiting for space, nothing is lost meanwhile")
            announced = True
            time.sleep(_SPACE_S)


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
